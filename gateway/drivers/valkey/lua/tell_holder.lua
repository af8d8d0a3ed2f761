#!lua
-- Tell whoever fetches a value something. KEYS: lease. ARGV: channel, message.
return redis.call('PUBLISH', ARGV[1], ARGV[2])
