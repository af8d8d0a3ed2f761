-- Return all readings: fields and values. KEYS: a hash.
return redis.call('HGETALL', KEYS[1])
