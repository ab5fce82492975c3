-- Keeps an entitlement if it supersedes the one that is kept, and how far billing's log was read if that is further.
--
-- KEYS  1 entitlement
-- ARGV  1 version   2 period start   3 period end   4 document (opaque)   5 when it may be dropped, in Unix milliseconds
--       6 sequence, 7 commit id: how far billing's log was read
-- Answers the document that is kept afterwards.
--
-- Why so: a lower version never replaces a higher one, so a slow reader cannot undo what a fast one put in force.

local kept = redis.call('HMGET', KEYS[1], 'version', 'period_start_us', 'document', 'read_sequence')
local supersedes = not kept[1]
if kept[1] then
  local version, start = tonumber(ARGV[1]), tonumber(ARGV[2])
  local kept_version, kept_start = tonumber(kept[1]), tonumber(kept[2])
  supersedes = version > kept_version or (version == kept_version and start > kept_start)
end

if not kept[4] or tonumber(ARGV[6]) > tonumber(kept[4]) then
  redis.call('HSET', KEYS[1], 'read_sequence', ARGV[6], 'read_commit_id', ARGV[7])
end
if not supersedes then
  return kept[3]
end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'period_start_us', ARGV[2], 'period_end_us', ARGV[3],
  'document', ARGV[4])
redis.call('PEXPIREAT', KEYS[1], ARGV[5])
return ARGV[4]
