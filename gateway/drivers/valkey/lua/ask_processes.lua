#!lua
-- Put a question to all processes and say how many there are.
-- KEYS: processes (heartbeat.lua keeps them). ARGV: channel, message.
redis.call('PUBLISH', ARGV[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
