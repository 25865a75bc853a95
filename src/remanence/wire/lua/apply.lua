#!lua
-- Applies consecutive ops of one lineage: data, change log and watermark move together or not at all.
--
-- KEYS: 1 watermark of the lineage, 2 change log, 3 watermark of the preceding lineage (or 1 again),
--       then for each op its data key and its tombstone key.
-- ARGV: 1 lineage ("" keeps no watermark), 2 nonce, 3 first seq, 4 last seq of the preceding lineage (0: none),
--       5 entries kept in the log, 6 tombstone lifetime in ms, 7 number of ops; then for each op:
--       kind, op id, hlc (16 digits), flags (l live, m merge, f folded), base etag or "", ttl, number of
--       items, items.
-- ttl:  ms; 0 for ever, -1 as it is, -2 its lifetime has already passed.
-- Reply: {status, seq, highest hlc written, results joined by "," or "" when all are ok[, current value]}, or
--        an error when the user's rights or the server's commands do not suffice: the watermark then tells
--        which ops were applied, and none is set aside for what an administrator can mend.
--
-- The watermark is a hash: s last seq, n nonce, h highest hlc, b "first-seq op-id results" of the last batch.
-- A log entry has one field, c: "op-id lineage seq kind result key".
--
-- Lua has no rollback, so each op finds out whether it can be applied before it writes anything.
-- The code is flat and its functions take plain values because tables, closures and patterns would cost
-- more than the commands themselves.

local KEYS, ARGV, call, try = KEYS, ARGV, redis.call, redis.pcall
local sub, byte, find, format = string.sub, string.byte, string.find, string.format
local lineage, first = ARGV[1], tonumber(ARGV[3])
local watermark, log = KEYS[1], KEYS[2]
local seq, highest = first - 1, '0'

if lineage ~= '' then
  local w = call('HMGET', watermark, 's', 'n', 'h')
  seq, highest = tonumber(w[1] or 0), w[3] or '0'
  if w[2] ~= ARGV[2] then return {'fenced', seq, 0, ''} end
  if first > seq + 1 then return {'gap', seq, 0, ''} end
  if seq == 0 then
    local needed = tonumber(ARGV[4])
    if needed > 0 and tonumber(call('HGET', KEYS[3], 's') or 0) < needed then return {'gap', seq, 0, ''} end
  end
end

local function parse(stamp) -- etag and hlc (16 digits) of a well-formed stamp
  if #stamp == 38 and not find(stamp, '[^%w_-]') and not find(stamp, '%D', 23) then
    return sub(stamp, 1, 22), sub(stamp, 23)
  end
end

-- The last command of all must not be the one that is refused: the ops before it would be applied twice.
if lineage ~= '' and not redis.acl_check_cmd('HSET', watermark, 's', '0') then
  return redis.error_reply('NOPERM this user may not run HSET on ' .. watermark)
end

local refused -- why the server does not let us do a part of our work; ends the batch
local function denied(answer) -- whether an error concerns the user's rights or missing commands, not the op
  local text = type(answer) == 'table' and answer.err or tostring(answer)
  if find(text, 'ACL failure', 1, true) or find(text, 'NOPERM', 1, true) or find(text, "can't run this", 1, true)
    or find(text, "can't access", 1, true) or find(text, 'nknown .*command') then
    refused = 'NOPERM ' .. text
    return true
  end
end

-- 'wrongtype' for the error of a key of another type; any other error is raised.
local function failed(answer)
  if find(answer.err, 'WRONGTYPE', 1, true) then return 'wrongtype' end
  error(answer.err, 0)
end

local folded -- etags of documents whose newest text comes with a later op of this batch
local NONE = '0000000000000000'

-- The etag and hlc of what is stored: '-' for nothing, nil for another type, a digest for others' values.
local function current(key)
  if folded and folded[key] then return folded[key].etag, folded[key].hlc end
  local head = try('GETRANGE', key, 0, 49)
  if type(head) == 'table' then return failed(head) and nil, NONE end
  local flag, etag, hlc = byte(head, 1)
  if not flag then
    if call('EXISTS', key) == 0 then return '-', NONE end
  elseif flag == 123 then
    if sub(head, 1, 10) == '{"stamp":"' and sub(head, 49, 50) == '",' then etag, hlc = parse(sub(head, 11, 48)) end
  elseif flag < 2 then
    etag, hlc = parse(sub(head, 2, 39))
  end
  if etag then return etag, hlc end
  return sub(redis.sha1hex(call('GET', key)), 1, 22), NONE
end

local function stored_tombstone(tomb)
  local stamp = call('GET', tomb)
  if stamp then return parse(stamp) end
end

local latest -- a writer's clock may run ahead of ours by five seconds at most
local function clamped(hlc)
  if not latest then
    local t = call('TIME')
    latest = format('%016.0f', t[1] * 1000000 + t[2] + 5000000)
  end
  return hlc + 0 > latest + 0 and latest or hlc -- as numbers: texts compare by the locale of the server's start
end

local function after(a, b) -- whether text `a` comes after `b` byte by byte, whatever the locale
  for i = 1, math.min(#a, #b) do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then return x > y end
  end
  return #a > #b
end

-- Why a put or delete may not happen (nil: it may), and the hlc it gets.
local function judge(etag, hlc, tomb, id, mine, live, merge, base)
  if base ~= '' and base ~= (etag or '?') then return merge and 'moved' or 'conflict' end
  if etag == '-' then
    local dead_etag, dead_hlc = stored_tombstone(tomb)
    if dead_etag then etag, hlc = dead_etag, dead_hlc end
  end
  mine = clamped(mine)
  local ahead = hlc - mine
  if live or base ~= '' then
    return nil, ahead >= 0 and format('%016.0f', hlc + 1) or mine
  end
  if etag ~= id and (ahead > 0 or (ahead == 0 and etag and after(etag, id))) then return 'stale' end
  return nil, mine
end

local may_set -- whether this was found to be so
local function carried_later(key) -- a text that comes with a later op must not be refused by then
  may_set = may_set or redis.acl_check_cmd('SET', key, '')
  if not may_set then error('NOPERM this user may not run SET', 0) end
end

local function put(key, tomb, id, mine, live, merge, base, ttl, at, fold)
  local etag, hlc = current(key)
  if not etag then return 'wrongtype' end
  local refusal, effective = judge(etag, hlc, tomb, id, mine, live, merge, base)
  if refusal then return refusal end
  if ttl == '-2' then
    call('DEL', key)
    if folded then folded[key] = nil end
    return 'expired'
  end
  if fold then carried_later(key) end
  if effective - highest > 0 then highest = effective end
  if fold then
    folded = folded or {}
    folded[key] = {etag = id, hlc = effective}
    return 'ok'
  end
  if folded then folded[key] = nil end
  local body, value = ARGV[at]
  if byte(body, 1) == 123 then
    value = '{"stamp":"' .. id .. effective .. '",' .. sub(body, 2)
  else
    value = sub(body, 1, 1) .. id .. effective .. sub(body, 2)
  end
  if ttl == '0' then
    call('SET', key, value)
  elseif ttl == '-1' then
    call('SET', key, value, 'KEEPTTL')
  else
    call('SET', key, value, 'PX', ttl)
  end
  return 'ok'
end

local function delete(key, tomb, id, mine, live, merge, base)
  local etag, hlc = current(key)
  local refusal, effective = judge(etag, hlc, tomb, id, mine, live, merge, base)
  if refusal then return refusal end
  if effective - highest > 0 then highest = effective end
  call('SET', tomb, id .. effective, 'PX', ARGV[6]) -- first: should the second be refused, both come again
  call('DEL', key)
  if folded then folded[key] = nil end
  return 'ok'
end

local function lengthen(key, ttl, live, created)
  if ttl == '0' then
    if not created then call('PERSIST', key) end
  elseif tonumber(ttl) > 0 then
    local left = (live or created) and 0 or call('PTTL', key)
    if left >= 0 and left < tonumber(ttl) then call('PEXPIRE', key, ttl) end
  end
end

local function append(key, tomb, id, mine, live, merge, base, ttl, at, fold, count)
  if not live then
    local dead_etag, dead_hlc = stored_tombstone(tomb)
    if dead_etag and dead_hlc - mine > 0 then return 'stale' end
  end
  if ttl == '-2' and call('EXISTS', key) == 0 then return 'expired' end
  local length
  for i = at, at + count - 1, 1000 do -- Lua's stack bounds unpack
    length = try('RPUSH', key, unpack(ARGV, i, math.min(i + 999, at + count - 1)))
    if type(length) == 'table' then return failed(length) end
  end
  local fine, answer = pcall(lengthen, key, ttl, live, length == count)
  if not fine and not denied(answer) then error(answer, 0) end -- the items are there: they must not come again
  return 'ok'
end

local function touch(key, tomb, id, mine, live, merge, base, ttl)
  if ttl == '-2' or call('EXISTS', key) == 0 then return 'expired' end
  lengthen(key, ttl, live, false)
  return 'ok'
end

-- With a base it vouches that a patch found nothing it could do to just that version.
local function blank(key, tomb, id, mine, live, merge, base)
  if base == '' then return 'ok' end
  local etag = current(key)
  if not etag then return 'wrongtype' end
  return etag == base and 'refused' or 'moved'
end

local kinds = {put = put, delete = delete, append = append, touch = touch, blank = blank}

local function stored_result(q) -- of an op that an earlier delivery applied
  local since, results = string.match(call('HGET', watermark, 'b') or '', '^(%d+) %S* (.*)$')
  local n = q - (since or 0)
  if not since or since == '0' or n < 0 then return 'dup' end -- 0: passed over by forward.lua, results unknown
  if results == '' then return 'ok' end
  for result in string.gmatch(results, '[^,]+') do
    if n == 0 then return result end
    n = n - 1
  end
  return 'dup'
end

local results, all_ok, at, before = {}, true, 8, seq
local last_id, moved
for i = 1, tonumber(ARGV[7]) do
  local kind, id, mine, flags, base, ttl, count = unpack(ARGV, at, at + 6)
  local key, q = KEYS[2 + 2 * i], first + i - 1
  count = tonumber(count)
  local result
  if q <= before then
    result = stored_result(q)
  else
    local live, merge, fold = find(flags, 'l', 1, true), find(flags, 'm', 1, true), find(flags, 'f', 1, true)
    local fine, answer = pcall(
      kinds[kind], key, KEYS[3 + 2 * i], id, mine, live, merge, base, ttl, at + 7, fold, count
    )
    if not fine and denied(answer) then break end
    result = fine and answer or 'error' -- the watermark moves on even past a fault of ours
    if result == 'moved' then
      moved = key
      break
    end
    local entry = id .. ' ' .. lineage .. ' ' .. q .. ' ' .. kind .. ' ' .. result .. ' ' .. key
    local logged
    if q % 64 == 1 then -- now and then is enough, and cheaper; the first op counts: many lineages end early
      logged = try('XADD', log, 'MAXLEN', '~', ARGV[5], '*', 'c', entry)
    else
      logged = try('XADD', log, '*', 'c', entry)
    end
    if type(logged) == 'table' then denied(logged) end
    seq, last_id = q, id
  end
  at = at + 7 + count
  results[i] = result
  if result ~= 'ok' then all_ok = false end
  if refused then break end
end

local joined = all_ok and '' or table.concat(results, ',')
if lineage ~= '' and last_id then
  call('HSET', watermark, 's', seq, 'h', highest, 'b', first .. ' ' .. last_id .. ' ' .. joined)
end
if refused then return redis.error_reply(refused) end
if moved then
  local value = try('GET', moved)
  return {'moved', seq, highest, joined, type(value) == 'string' and value} -- absent, or of another type: nil
end
return {'ok', seq, highest, joined}
