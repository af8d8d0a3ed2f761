-- Mark a key as used. KEYS: the key. ARGV: TTL in ms.
-- Returns 1, or 0 if it was used already.
if redis.call('SET', KEYS[1], '', 'NX', 'PX', ARGV[1]) then
  return 1
end
return 0
