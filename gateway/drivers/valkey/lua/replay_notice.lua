-- Make a dead notice due again. KEYS: as in settle_notice.lua. ARGV: member, the sealed notice.
-- Returns 0 if it is not dead any more.
if redis.call('ZREM', KEYS[5], ARGV[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], string.match(ARGV[1], ':([^:]*):') or '0', ARGV[1])
redis.call('ZADD', KEYS[3], 0, ARGV[1])
return 1
