-- Writes counters under a key that nobody looks at, until reset.lua puts them in place.
--
-- KEYS  1 staged
-- ARGV  1 how long they wait for what comes next, in milliseconds   2.. field and quantity of each counter
--
-- Why so: whoever writes them may die at any moment, and nothing may stay for ever.

redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
