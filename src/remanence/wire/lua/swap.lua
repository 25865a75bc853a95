#!lua
-- Changes what an index holds of one document, all or nothing, if that is still as its writer saw it, and so is the
-- record that it was made of: whatever is put in late, the index never holds less than the record's last writer put in.
-- KEYS: 1 the documents, 2 the record, then every other key that is written. ARGV: 1 the document's id, 2 what was
-- seen of it ("" for nothing), 3 the record's etag ("-" for none, "" where nothing is asked of it), then each command:
-- how many words it has, and these. Reply: 1; 0 when somebody was faster; -1 when the record is another.
local wanted = ARGV[3]
if wanted ~= '' then
  local etag, head = '-', redis.pcall('GETRANGE', KEYS[2], 0, 49)
  if type(head) == 'table' then
    if not string.find(head.err, 'WRONGTYPE', 1, true) then return head end -- what is of another type is no record
  elseif head ~= '' then
    etag = string.byte(head) == 123 and string.sub(head, 11, 32) or string.sub(head, 2, 23)
    if etag ~= wanted then etag = string.sub(redis.sha1hex(redis.call('GET', KEYS[2])), 1, 22) end -- of others' values
  end
  if etag ~= wanted then return -1 end
end
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
local at = 4
while at <= #ARGV do
  local last = at + tonumber(ARGV[at])
  local reply = redis.call(unpack(ARGV, at + 1, last))
  if reply == 0 and ARGV[at + 1] == 'HINCRBY' then redis.call('HDEL', ARGV[at + 2], ARGV[at + 3]) end
  at = last + 1
end
return 1
