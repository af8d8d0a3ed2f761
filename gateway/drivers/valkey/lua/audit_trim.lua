-- Delete the audit stream's oldest lines: expired ones, and others while the stream is too large.
-- It also runs on a server without free memory, where only deleting makes room. MEMORY USAGE
-- estimates from samples.
-- KEYS: stream. ARGV: lifetime of a line in ms (0: unlimited), maximum size in bytes.
-- Returns the size in bytes, the number of expired lines and the number of lines deleted early.
local expired, crowded = 0, 0
if ARGV[1] ~= '0' then
  local time = redis.call('TIME')
  local oldest = string.format('%.0f', time[1] * 1000 + time[2] / 1000 - tonumber(ARGV[1]))
  expired = redis.call('XTRIM', KEYS[1], 'MINID', '~', oldest)
end
local bytes = redis.call('MEMORY', 'USAGE', KEYS[1]) or 0
local max = tonumber(ARGV[2])
if bytes > max then
  local keep = math.floor(redis.call('XLEN', KEYS[1]) * max / bytes)
  crowded = redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', keep)
  bytes = redis.call('MEMORY', 'USAGE', KEYS[1]) or 0
end
return {bytes, expired, crowded}
