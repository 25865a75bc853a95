#!lua
-- Moves a watermark past ops that are lost for good. KEYS: 1 watermark. ARGV: 1 nonce, 2 seq, 3 op id.
-- Reply: 1, or 0 when another session has opened this lineage.
local w = redis.call('HMGET', KEYS[1], 's', 'n')
if w[2] ~= ARGV[1] then return 0 end
if tonumber(w[1] or 0) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 's', ARGV[2], 'b', '0 ' .. ARGV[3] .. ' ')
end
return 1
