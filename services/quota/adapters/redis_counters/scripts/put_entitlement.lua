-- Keeps an entitlement if it supersedes the one that is kept, and how far billing's log was read if that is further.
--
-- KEYS  1 entitlement
-- ARGV  1 version   2 period start   3 period end   4 document (opaque)   5 when it may be dropped, in Unix milliseconds
--       6 sequence, 7 commit id: how far billing's log was read
--       8 '1': replace what is kept whatever it is, if that was read up to 9 sequence, 10 commit id; else '0'
-- Answers the document that is kept afterwards; to replace: 1, or 0 when it was read up to elsewhere and nothing changed.
--
-- Why so: a lower version never replaces a higher one, so a slow reader cannot undo what a fast one put in force. Only a
-- log that was rewound counts its versions anew; compare-and-set then does the same for those who notice it at once.

local kept = redis.call('HMGET', KEYS[1], 'version', 'period_start_us', 'document', 'read_sequence', 'read_commit_id')
local function keep()
  redis.call('HSET', KEYS[1], 'version', ARGV[1], 'period_start_us', ARGV[2], 'period_end_us', ARGV[3],
    'document', ARGV[4])
  redis.call('PEXPIREAT', KEYS[1], ARGV[5])
end

if ARGV[8] == '1' then
  if kept[4] ~= ARGV[9] or kept[5] ~= ARGV[10] then
    return 0
  end
  redis.call('HSET', KEYS[1], 'read_sequence', ARGV[6], 'read_commit_id', ARGV[7])
  keep()
  return 1
end

local supersedes, is_known = not kept[1], true
if kept[1] then
  local version, start = tonumber(ARGV[1]), tonumber(ARGV[2])
  local kept_version, kept_start = tonumber(kept[1]), tonumber(kept[2])
  is_known = version >= kept_version
  supersedes = version > kept_version or (version == kept_version and start > kept_start)
end

-- Further on and yet a lower version: the log was rewound, which the old position alone can tell who follows it.
if not kept[4] or (is_known and tonumber(ARGV[6]) > tonumber(kept[4])) then
  redis.call('HSET', KEYS[1], 'read_sequence', ARGV[6], 'read_commit_id', ARGV[7])
end
if not supersedes then
  return kept[3]
end
keep()
return ARGV[4]
