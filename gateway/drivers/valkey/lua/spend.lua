#!lua
-- Add what one replica's callers spent to what all replicas know of them.
-- KEYS: one per caller. ARGV: interval in microseconds, then requests per caller.
-- Returns how far each caller's theoretical arrival time lies ahead, in microseconds.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local ahead = {}
for i, key in ipairs(KEYS) do
  local tat = math.max(tonumber(redis.call('GET', key)) or 0, now)
  tat = tat + tonumber(ARGV[1]) * tonumber(ARGV[i + 1])
  local life_ms = math.ceil((tat - now) / 1000) + 1
  redis.call('SET', key, string.format('%.0f', tat), 'PX', life_ms)
  ahead[i] = math.floor(tat - now)
end
return ahead
