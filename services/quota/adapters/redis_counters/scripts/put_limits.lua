-- Keeps the limits of an organization's own if they are of a later entry of quota's change log than those kept.
--
-- KEYS  1 entitlement
-- ARGV  1 sequence, 2 commit id: the entry   3 document (opaque)   4 until when they are kept at least, in Unix milliseconds
--       5 '1': replace those kept whatever they are, if they are of 6 sequence, 7 commit id; else '0'
-- Answers {sequence, commit id, document} as kept afterwards; to replace: 1, or 0 when others are kept and nothing changed.
--
-- Why so: a lower number never replaces a higher one, so a slow writer cannot undo what a fast one put in force. Only a
-- log that was rewound gives its numbers again; compare-and-set then does the same for those who notice it at once.
-- They may come before the entitlement, and then have a key of their own age: nothing may stay for ever.

local kept = redis.call('HMGET', KEYS[1], 'limits_sequence', 'limits_commit_id', 'limits_document')
local is_kept = kept[1] and tonumber(kept[1]) >= tonumber(ARGV[1])
if ARGV[5] == '1' then
  if kept[1] ~= ARGV[6] or kept[2] ~= ARGV[7] then
    return 0
  end
elseif is_kept then
  return kept
end

redis.call('HSET', KEYS[1], 'limits_sequence', ARGV[1], 'limits_commit_id', ARGV[2], 'limits_document', ARGV[3])
local time = redis.call('TIME')
local left = redis.call('PTTL', KEYS[1])
if left < tonumber(ARGV[4]) - (time[1] * 1000 + math.floor(time[2] / 1000)) then
  redis.call('PEXPIREAT', KEYS[1], ARGV[4])
end
if ARGV[5] == '1' then
  return 1
end
return {ARGV[1], ARGV[2], ARGV[3]}
