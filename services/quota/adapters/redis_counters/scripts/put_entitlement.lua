-- Keeps an entitlement if it supersedes the one that is kept.
--
-- KEYS  1 entitlement
-- ARGV  1 version   2 period start   3 period end   4 document (opaque)   5 when it may be dropped, in Unix milliseconds
-- Answers the document that is kept afterwards.

local kept = redis.call('HMGET', KEYS[1], 'version', 'period_start_us', 'document')
if kept[1] then
  local version, start = tonumber(ARGV[1]), tonumber(ARGV[2])
  local kept_version, kept_start = tonumber(kept[1]), tonumber(kept[2])
  if kept_version > version or (kept_version == version and kept_start >= start) then
    return kept[3]
  end
end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'period_start_us', ARGV[2], 'period_end_us', ARGV[3],
  'document', ARGV[4])
redis.call('PEXPIREAT', KEYS[1], ARGV[5])
return ARGV[4]
