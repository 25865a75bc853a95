#!lua
-- Erases keys for good, and tells of each as of a delete.
-- KEYS: 1 change log, then for each key its data key, its tombstone key and that of its earlier versions.
-- ARGV: 1 op id (22), 2 hlc (16 digits), 3 tombstone lifetime in ms, 4 "1": whatever is there, else only what is
--       not newer. A list has no time; what is neither text nor a list is not ours.
-- Reply: how many were erased.
local id, hlc, erased = ARGV[1], ARGV[2], 0
for i = 2, #KEYS, 3 do
  local key, kind = KEYS[i], redis.call('TYPE', KEYS[i]).ok
  local stored = '0'
  redis.call('DEL', KEYS[i + 2])
  if kind == 'string' then
    local head = redis.call('GETRANGE', key, 0, 49)
    local start = string.byte(head, 1) == 123 and 33 or 24
    if start == 24 or string.sub(head, 1, 10) == '{"stamp":"' then
      stored = string.match(string.sub(head, start, start + 15), '^%d+$') or '0'
    end
  end
  local newer = stored - hlc > 0
  if (kind == 'string' or kind == 'list') and (ARGV[4] == '1' or not newer) then
    -- first: should the second be refused, both come again
    redis.call('SET', KEYS[i + 1], id .. (newer and stored or hlc), 'PX', ARGV[3])
    redis.call('DEL', key)
    redis.call('XADD', KEYS[1], '*', 'c', id .. '  0 delete ok ' .. key)
    erased = erased + 1
  end
end
return erased
