#!lua
-- Applies consecutive ops of one lineage: data, change log and watermark move together or not at all.
--
-- KEYS: 1 watermark of the lineage, 2 change log, 3 watermark of the preceding lineage (or 1 again),
--       then for each op its data key and its tombstone key.
-- ARGV: 1 lineage ("" keeps no watermark), 2 nonce, 3 first seq, 4 last seq of the preceding lineage (0: none),
--       5 entries kept in the log, 6 tombstone lifetime in ms, 7 number of ops; then for each op:
--       kind, op id, hlc, flags (l live, m merge, f folded), base etag or "", ttl, number of items, items.
-- ttl:  ms; 0 for ever, -1 as it is, -2 its lifetime has already passed.
-- Reply: {status, seq, highest hlc written, results joined by "," or "" when all are ok[, current value]}.
--
-- Lua has no rollback, so each op finds out whether it can be applied before it writes anything.

local lineage, nonce, first = ARGV[1], ARGV[2], tonumber(ARGV[3])
local watermark, log = KEYS[1], KEYS[2]
local seq, last_first, last_results, highest = first - 1, 0, '', 0

if lineage ~= '' then
  local w = redis.call('HMGET', watermark, 's', 'n', 'f', 'r', 'h')
  if w[2] ~= nonce then return {'fenced', tonumber(w[1] or 0), 0, ''} end
  seq = tonumber(w[1] or 0)
  last_first, last_results, highest = tonumber(w[3] or 0), w[4] or '', tonumber(w[5] or 0)
  if first > seq + 1 then return {'gap', seq, 0, ''} end
  local needed = tonumber(ARGV[4])
  if seq == 0 and needed > 0 and tonumber(redis.call('HGET', KEYS[3], 's') or 0) < needed then
    return {'gap', seq, 0, ''}
  end
end

local server_time
local function latest_allowed() -- a writer's clock may run ahead of ours by five seconds at most
  if not server_time then
    local t = redis.call('TIME')
    server_time = tonumber(t[1]) * 1000000 + tonumber(t[2])
  end
  return server_time + 5000000
end

local function parse(stamp)
  local etag, hlc = string.match(stamp, '^([%w_%-]+)(%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d)$')
  if etag and #etag == 22 then return etag, tonumber(hlc) end
end

local folded = {} -- etags of documents whose newest text comes with a later op of this batch

-- The etag and hlc of what is stored: '-' for nothing, nil for another type, a digest for others' values.
local function current(key)
  if folded[key] then return folded[key].etag, folded[key].hlc end
  local head = redis.pcall('GETRANGE', key, 0, 49)
  if type(head) == 'table' then return nil, 0 end
  local etag, hlc
  local flag = string.byte(head, 1)
  if string.sub(head, 1, 10) == '{"stamp":"' and string.sub(head, 49, 50) == '",' then
    etag, hlc = parse(string.sub(head, 11, 48))
  elseif flag == 0 or flag == 1 then
    etag, hlc = parse(string.sub(head, 2, 39))
  elseif not flag and redis.call('EXISTS', key) == 0 then
    return '-', 0
  end
  if etag then return etag, hlc end
  return string.sub(redis.sha1hex(redis.call('GET', key)), 1, 22), 0
end

local function tombstone(key)
  local stamp = redis.call('GET', key)
  if stamp then return parse(stamp) end
end

local function stamped(body, stamp)
  if string.byte(body, 1) == 123 then return '{"stamp":"' .. stamp .. '",' .. string.sub(body, 2) end
  return string.sub(body, 1, 1) .. stamp .. string.sub(body, 2)
end

local function stamp_of(op, hlc)
  if hlc > highest then highest = hlc end
  return op.id .. string.format('%016.0f', hlc)
end

-- Whether etag `a` comes after `b` byte by byte: Lua's own comparison obeys the locale the server was started in.
local function after(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return #a > #b
end

-- Whether a put or delete may happen, and with which hlc (the rules of conflicts).
local function judge(op, etag, hlc)
  if op.base ~= '' and op.base ~= (etag or '?') then
    return op.merge and 'moved' or 'conflict'
  end
  if etag == '-' then
    local dead_etag, dead_hlc = tombstone(op.tomb)
    if dead_etag then etag, hlc = dead_etag, dead_hlc end
  end
  local mine = math.min(op.hlc, latest_allowed())
  if op.live or op.base ~= '' then
    return nil, math.max(mine, hlc + 1)
  end
  if etag ~= op.id and (hlc > mine or (hlc == mine and etag and after(etag, op.id))) then return 'stale' end
  return nil, mine
end

local kinds = {}

function kinds.put(op)
  local etag, hlc = current(op.key)
  if not etag then return 'wrongtype' end
  local refusal, effective = judge(op, etag, hlc)
  if refusal then return refusal end
  if op.ttl == -2 then
    redis.call('DEL', op.key)
    folded[op.key] = nil
    return 'expired'
  end
  local stamp = stamp_of(op, effective)
  if op.folded then
    folded[op.key] = {etag = op.id, hlc = effective}
    return 'ok'
  end
  folded[op.key] = nil
  local value = stamped(op.items[1], stamp)
  if op.ttl > 0 then
    redis.call('SET', op.key, value, 'PX', op.ttl)
  elseif op.ttl == -1 then
    redis.call('SET', op.key, value, 'KEEPTTL')
  else
    redis.call('SET', op.key, value)
  end
  return 'ok'
end

function kinds.delete(op)
  local etag, hlc = current(op.key)
  local refusal, effective = judge(op, etag, hlc)
  if refusal then return refusal end
  redis.call('DEL', op.key)
  folded[op.key] = nil
  redis.call('SET', op.tomb, stamp_of(op, effective), 'PX', ARGV[6])
  return 'ok'
end

local function lengthen(op, created)
  if op.ttl == 0 then
    if not created then redis.call('PERSIST', op.key) end
  elseif op.ttl > 0 then
    local left = (op.live or created) and 0 or redis.call('PTTL', op.key)
    if left >= 0 and left < op.ttl then redis.call('PEXPIRE', op.key, op.ttl) end
  end
end

function kinds.append(op)
  if not op.live then
    local dead_etag, dead_hlc = tombstone(op.tomb)
    if dead_etag and dead_hlc > op.hlc then return 'stale' end
  end
  if op.ttl == -2 and redis.call('EXISTS', op.key) == 0 then return 'expired' end
  local length
  for i = 1, #op.items, 1000 do -- Lua's stack bounds unpack
    length = redis.pcall('RPUSH', op.key, unpack(op.items, i, math.min(i + 999, #op.items)))
    if type(length) == 'table' then return 'wrongtype' end
  end
  lengthen(op, length == #op.items)
  return 'ok'
end

function kinds.touch(op)
  if op.ttl == -2 or redis.call('EXISTS', op.key) == 0 then return 'expired' end
  lengthen(op, false)
  return 'ok'
end

function kinds.blank(op) -- with a base it vouches that a patch found nothing to do on just that document
  if op.base == '' then return 'ok' end
  local etag = current(op.key)
  if not etag then return 'wrongtype' end
  return etag == op.base and 'ok' or 'moved'
end

local function stored_result(q)
  if last_first == 0 or q < last_first then return 'dup' end -- 0: passed over by forward.lua, results unknown
  if last_results == '' then return 'ok' end
  local n = q - last_first
  for result in string.gmatch(last_results, '[^,]+') do
    if n == 0 then return result end
    n = n - 1
  end
  return 'dup'
end

local results, all_ok, at, before = {}, true, 8, seq
local last_id, moved
for i = 1, tonumber(ARGV[7]) do
  local kind, flags, count = ARGV[at], ARGV[at + 3], tonumber(ARGV[at + 6])
  local op = {
    key = KEYS[2 + 2 * i], tomb = KEYS[3 + 2 * i], id = ARGV[at + 1], hlc = tonumber(ARGV[at + 2]),
    live = string.find(flags, 'l', 1, true), merge = string.find(flags, 'm', 1, true),
    folded = string.find(flags, 'f', 1, true), base = ARGV[at + 4], ttl = tonumber(ARGV[at + 5]), items = {},
  }
  for j = 1, count do op.items[j] = ARGV[at + 6 + j] end
  at = at + 7 + count
  local q = first + i - 1
  local result
  if q <= before then
    result = stored_result(q)
  else
    local fine, answer = pcall(kinds[kind], op)
    result = fine and answer or 'error' -- the watermark moves on even past a fault of ours
    if result == 'moved' then
      moved = op.key
      break
    end
    redis.pcall('XADD', log, 'MAXLEN', '~', ARGV[5], '*', 'o', op.id, 'k', op.key, 'd', kind .. ' ' .. result,
      'w', lineage .. ' ' .. string.format('%.0f', q))
    seq, last_id = q, op.id
  end
  results[i] = result
  if result ~= 'ok' then all_ok = false end
end

local joined = all_ok and '' or table.concat(results, ',')
if lineage ~= '' and last_id then
  redis.call('HSET', watermark, 's', string.format('%.0f', seq), 'o', last_id, 'f', first, 'r', joined,
    'h', string.format('%.0f', highest))
end
if moved then
  local value = redis.pcall('GET', moved)
  return {'moved', seq, highest, joined, type(value) == 'string' and value} -- absent, or of another type: nil
end
return {'ok', seq, highest, joined}
