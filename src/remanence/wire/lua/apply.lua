#!lua
-- Applies consecutive ops of one lineage: data, change log and watermark move together or not at all.
--
-- KEYS: 1 watermark of the lineage, 2 change log, 3 watermark of the preceding lineage (or 1 again),
--       then for each op its data key and its tombstone key; and, only where earlier versions of records are to
--       be kept, for each op the key of that list ("v" and the document, or "d" and the stamp of a delete).
-- ARGV: 1 lineage ("" keeps no watermark), 2 nonce, 3 first seq, 4 number of ops, 5 "a b c": last seq of the
--       preceding lineage (0: none; "a/n": and n versions are kept), entries kept in the log, tombstone lifetime
--       in ms; then for each op:
--       head, base etag or "", ttl, items. A head is the op id (22), hlc (16 digits), kind (p put, d delete,
--       a append, t touch, b blank), flags (1 live + 2 merge + 4 folded), number of items.
-- ttl:  ms; 0 for ever, -1 as it is, -2 its lifetime has already passed.
-- Reply: {status, seq, highest hlc written, results joined by "," or "" when all are ok[, current value]}, or
--        an error when the user's rights or the server's commands do not suffice: the watermark then tells
--        which ops were applied, and none is set aside for what an administrator can mend.
--
-- The watermark is a hash: s last seq, n nonce, h highest hlc, b "first-seq op-id results" of the last batch,
-- t a time in microseconds that the server's clock has passed.
-- A log entry has one field, c: "op-id lineage seq kind result key".
--
-- Lua has no rollback, so each op finds out whether it can be applied before it writes anything.
-- The code is flat and its functions take plain values because tables, closures and patterns would cost
-- more than the commands themselves; for the same reason what is sent most is done before any are made.

local KEYS, ARGV, call, try = KEYS, ARGV, redis.call, redis.pcall
local sub, byte, find, format = string.sub, string.byte, string.find, string.format
local lineage, first, total = ARGV[1], tonumber(ARGV[3]), ARGV[4]
local watermark, log = KEYS[1], KEYS[2]
local seq, highest, passed = first - 1, '0'

if lineage ~= '' then
  local w = call('HMGET', watermark, 's', 'n', 'h', 't')
  seq, highest, passed = tonumber(w[1] or 0), w[3] or '0', w[4]
  if w[2] ~= ARGV[2] then return {'fenced', seq, 0, ''} end
  if first ~= seq + 1 then return {'gap', seq, 0, ''} end -- also for what was applied: ask whose writes those are
  if seq == 0 then
    local needed = tonumber((string.match(ARGV[5], '%d+')))
    if needed > 0 and tonumber(call('HGET', KEYS[3], 's') or 0) < needed then return {'gap', seq, 0, ''} end
  end
  -- The last command of all must not be the one that is refused: the ops before it would be applied twice.
  if not redis.acl_check_cmd('HSET', watermark, 's', '0') then
    return redis.error_reply('NOPERM this user may not run HSET on ' .. watermark)
  end
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

local AHEAD = 5000000 -- microseconds that a writer's clock may run ahead of ours

-- The short way for one put or append that is made now: the same as below comes to, where nothing stands against
-- it. Every 64th goes the long way, which keeps the log short.
if total == '1' and lineage ~= '' and first % 64 ~= 1 and passed then
  local head, ttl, key = ARGV[6], ARGV[8], KEYS[4]
  local id, mine, what = sub(head, 1, 22), sub(head, 23, 38), sub(head, 39, 40)
  local done
  if what == 'p1' and not KEYS[6] and ARGV[7] == '' and ttl ~= '-2' and mine - passed <= AHEAD then
    local found, body, stored = try('GETRANGE', key, 0, 49), ARGV[9]
    if found == '' then
      stored = call('EXISTS', key) == 0 and not call('GET', KEYS[5]) and 0
    elseif type(found) == 'string' then
      if byte(found, 1) == 123 and sub(found, 1, 10) == '{"stamp":"' then
        stored = tonumber(sub(found, 33, 48))
      elseif byte(found, 1) < 2 then
        stored = tonumber(sub(found, 24, 39))
      end
    end
    if stored and stored < mine + 0 then
      local value
      if byte(body, 1) == 123 then
        value = '{"stamp":"' .. id .. mine .. '",' .. sub(body, 2)
      else
        value = sub(body, 1, 1) .. id .. mine .. sub(body, 2)
      end
      local answer
      if ttl == '0' then
        answer = try('SET', key, value)
      elseif ttl == '-1' then
        answer = try('SET', key, value, 'KEEPTTL')
      else
        answer = try('SET', key, value, 'PX', ttl)
      end
      if not answer.err then
        done = 'put'
        if mine - highest > 0 then highest = mine end
      end
    end
  elseif what == 'a1' and ttl ~= '-2' and #ARGV < 1000 then -- Lua's stack bounds unpack
    local length = try('RPUSH', key, unpack(ARGV, 9))
    if type(length) == 'number' then
      local extended
      if ttl == '0' then
        if length > #ARGV - 8 then extended = try('PERSIST', key) end
      elseif ttl ~= '-1' then
        extended = try('PEXPIRE', key, ttl)
      end
      if type(extended) == 'table' then denied(extended) end -- the items are there: they must not come again
      done = 'append'
    end
  end
  if done then
    local logged = try('XADD', log, '*', 'c', id .. ' ' .. lineage .. ' ' .. first .. ' ' .. done .. ' ok ' .. key)
    if type(logged) == 'table' then denied(logged) end
    call('HSET', watermark, 's', first, 'h', highest, 'b', first .. ' ' .. id .. ' ')
    if refused then return redis.error_reply(refused) end
    return {'ok', first, highest, ''}
  end
end

local function parse(stamp) -- etag and hlc (16 digits) of a well-formed stamp
  if #stamp == 38 and not find(stamp, '[^%w_-]') and not find(stamp, '%D', 23) then
    return sub(stamp, 1, 22), sub(stamp, 23)
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

local latest -- the most that a writer's clock may say
local function clamped(hlc)
  if passed and hlc - passed <= AHEAD then return hlc end
  if not latest then
    local t = call('TIME')
    passed = format('%016.0f', t[1] * 1000000 + t[2])
    latest = format('%016.0f', passed + AHEAD)
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

local versions, archive, age -- how many are kept, where any are
if KEYS[4 + 2 * total] then
  versions = tonumber((string.match(ARGV[5], '/(%d+) ')))
  function archive(past, value, dead) -- what is about to be replaced joins the earlier versions
    if type(value) == 'string' then call('LPUSH', past, 'v' .. value) end
    if dead then call('LPUSH', past, dead) end
    call('LTRIM', past, 0, dead and versions or versions - 1)
  end
  function age(key, past) -- they live as long as the record, or as a tombstone
    local left = call('PTTL', key)
    if left == -1 then
      call('PERSIST', past)
    else
      call('PEXPIRE', past, left < 0 and string.match(ARGV[5], '%d+$') or left)
    end
  end
end

local function put(key, tomb, id, mine, live, merge, base, ttl, at, fold, count, past)
  local etag, hlc = current(key)
  if not etag then return 'wrongtype' end
  local refusal, effective = judge(etag, hlc, tomb, id, mine, live, merge, base)
  if refusal then return refusal end
  if ttl == '-2' then
    call('DEL', key)
    if past then call('DEL', past) end
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
  if past then archive(past, etag ~= id and try('GET', key)) end
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
  if past then age(key, past) end
  return 'ok'
end

local function delete(key, tomb, id, mine, live, merge, base, ttl, at, fold, count, past)
  local etag, hlc = current(key)
  local refusal, effective = judge(etag, hlc, tomb, id, mine, live, merge, base)
  if refusal then return refusal end
  if effective - highest > 0 then highest = effective end
  local value = past and try('GET', key)
  if type(value) ~= 'string' then past = nil end -- nothing, or a list
  if past then archive(past, value, 'd' .. id .. effective) end
  -- first: should the second be refused, both come again
  call('SET', tomb, id .. effective, 'PX', string.match(ARGV[5], '%d+$'))
  call('DEL', key)
  if past then age(key, past) end
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

local function touch(key, tomb, id, mine, live, merge, base, ttl, at, fold, count, past)
  if ttl == '-2' or call('EXISTS', key) == 0 then return 'expired' end
  lengthen(key, ttl, live, false)
  if past and call('TYPE', key).ok == 'string' then age(key, past) end
  return 'ok'
end

-- With a base it vouches that a patch found nothing it could do to just that version.
local function blank(key, tomb, id, mine, live, merge, base)
  if base == '' then return 'ok' end
  local etag = current(key)
  if not etag then return 'wrongtype' end
  return etag == base and 'refused' or 'moved'
end

local kinds = {p = put, d = delete, a = append, t = touch, b = blank}
local names = {p = 'put', d = 'delete', a = 'append', t = 'touch', b = 'blank'}

local results, all_ok, at = {}, true, 6
local last_id, moved
for i = 1, tonumber(total) do
  local head, base, ttl = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local id, mine, kind, flags = sub(head, 1, 22), sub(head, 23, 38), sub(head, 39, 39), byte(head, 40) - 48
  local key, q, count = KEYS[2 + 2 * i], first + i - 1, tonumber(sub(head, 41))
  local fine, answer = pcall(
    kinds[kind], key, KEYS[3 + 2 * i], id, mine, flags % 2 == 1, flags % 4 > 1, base, ttl, at + 3, flags > 3, count,
    versions and KEYS[3 + 2 * total + i]
  )
  if not fine and denied(answer) then break end
  local result = fine and answer or 'error' -- the watermark moves on even past a fault of ours
  if result == 'moved' then
    moved = key
    break
  end
  local entry = id .. ' ' .. lineage .. ' ' .. q .. ' ' .. names[kind] .. ' ' .. result .. ' ' .. key
  local logged
  if q % 64 == 1 then -- now and then is enough, and cheaper; the first op counts: many lineages end early
    logged = try('XADD', log, 'MAXLEN', '~', string.match(ARGV[5], ' (%d+) '), '*', 'c', entry)
  else
    logged = try('XADD', log, '*', 'c', entry)
  end
  if type(logged) == 'table' then denied(logged) end
  seq, last_id = q, id
  at = at + 3 + count
  results[i] = result
  if result ~= 'ok' then all_ok = false end
  if refused then break end
end

local joined = all_ok and '' or table.concat(results, ',')
if lineage ~= '' and last_id then
  local last = first .. ' ' .. last_id .. ' ' .. joined
  if latest then
    call('HSET', watermark, 's', seq, 'h', highest, 'b', last, 't', passed)
  else
    call('HSET', watermark, 's', seq, 'h', highest, 'b', last)
  end
end
if refused then return redis.error_reply(refused) end
if moved then
  local value = try('GET', moved)
  return {'moved', seq, highest, joined, type(value) == 'string' and value} -- absent, or of another type: nil
end
return {'ok', seq, highest, joined}
