-- Store a process's response to a query.
-- KEYS: the responses to the query (a hash by process). ARGV: process ID, response, TTL in ms.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
