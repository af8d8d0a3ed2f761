-- Store the console shape that worked for an account. KEYS: a hash. ARGV: account, shape ('' none).
if ARGV[2] == '' then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
