-- Return the console shape that worked last for an account, or false. KEYS: a hash. ARGV: account.
return redis.call('HGET', KEYS[1], ARGV[1])
