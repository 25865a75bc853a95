#!lua
-- Begins a session of a lineage: batches that carry another nonce are refused from now on.
-- KEYS: 1 watermark, 2 change log. ARGV: 1 nonce, 2 watermark lifetime in ms.
-- Reply: {seq, highest hlc, last batch ("first-seq op-id results"), server time in microseconds}.
if not redis.acl_check_cmd('XADD', KEYS[2], '*', 'c', '') then -- a write without its entry would be missed
  return redis.error_reply('NOPERM this user may not run XADD on ' .. KEYS[2])
end
local w = redis.call('HMGET', KEYS[1], 's', 'h', 'b')
local t = redis.call('TIME')
local now = t[1] .. string.format('%06d', t[2])
redis.call('HSET', KEYS[1], 'n', ARGV[1], 't', now)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {w[1] or '0', w[2] or '0', w[3] or '0  ', now}
