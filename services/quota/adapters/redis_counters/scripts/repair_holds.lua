-- Sets counters held to what they should be, if all of them are still what they were found to be.
--
-- KEYS  1 held
-- ARGV  1 epoch   2.. field, what it was, what it should be; of each counter
-- Answers 1, or 0 when one of them moved: then nothing changed.
--
-- Why so: what it should be was added up over several looks, and two who found the same must not put it right twice.

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
  return 0
end
for at = 2, #ARGV, 3 do
  if (redis.call('HGET', KEYS[1], ARGV[at]) or '0') ~= ARGV[at + 1] then
    return 0
  end
end
for at = 2, #ARGV, 3 do
  if ARGV[at + 2] == '0' then
    redis.call('HDEL', KEYS[1], ARGV[at])
  else
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 2])
  end
end
return 1
