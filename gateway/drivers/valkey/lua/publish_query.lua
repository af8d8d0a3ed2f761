-- Publish a query to all processes and return how many there are.
-- KEYS: processes (maintained by heartbeat.lua). ARGV: channel, message.
redis.call('PUBLISH', ARGV[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
