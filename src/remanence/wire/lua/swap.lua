#!lua
-- Changes what an index holds of one document, all or nothing, if that is still as its writer saw it.
-- KEYS: 1 the documents, then every other key that is written. ARGV: 1 the document's id, 2 what was seen of it
-- ("" for nothing), then each command: how many words it has, and these. Reply: 1, or 0 when somebody was faster.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
local at = 3
while at <= #ARGV do
  local last = at + tonumber(ARGV[at])
  local reply = redis.call(unpack(ARGV, at + 1, last))
  if reply == 0 and ARGV[at + 1] == 'HINCRBY' then redis.call('HDEL', ARGV[at + 2], ARGV[at + 3]) end
  at = last + 1
end
return 1
