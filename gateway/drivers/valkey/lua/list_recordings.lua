-- Return IDs of recordings, the newest first.
-- KEYS: all recordings (a sorted set). ARGV: latest start, earliest start, how many to skip, count.
return redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[2], 'BYSCORE', 'REV', 'LIMIT', ARGV[3], ARGV[4])
