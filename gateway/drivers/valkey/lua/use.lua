#!lua
-- Mark one name as used. KEYS: the name. ARGV: for how many milliseconds.
-- Returns 1 when nobody had, 0 when it was used already.
if redis.call('SET', KEYS[1], '', 'NX', 'PX', ARGV[1]) then
  return 1
end
return 0
