#!lua flags=allow-oom
-- Forget the audit stream's oldest lines: those that are too old, and others while it is too large.
-- It runs on a full server, too, where only forgetting makes room; MEMORY USAGE looks at samples.
-- KEYS: stream. ARGV: for how many ms lines are kept (0: for ever), how many bytes it may take.
-- Returns how many bytes it takes, how many lines were too old, how many went before their time.
local old, crowded = 0, 0
if ARGV[1] ~= '0' then
  local time = redis.call('TIME')
  local oldest = string.format('%.0f', time[1] * 1000 + time[2] / 1000 - tonumber(ARGV[1]))
  old = redis.call('XTRIM', KEYS[1], 'MINID', '~', oldest)
end
local bytes = redis.call('MEMORY', 'USAGE', KEYS[1]) or 0
local max = tonumber(ARGV[2])
if bytes > max then
  local keeps = math.floor(redis.call('XLEN', KEYS[1]) * max / bytes)
  crowded = redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', keeps)
  bytes = redis.call('MEMORY', 'USAGE', KEYS[1]) or 0
end
return {bytes, old, crowded}
