-- Publish a message to the holder of a lease. KEYS: lease. ARGV: channel, message.
return redis.call('PUBLISH', ARGV[1], ARGV[2])
