#!lua
-- GCRA with reservation, on this server's clock: one number, the theoretical arrival time (TAT).
-- KEYS: budget. ARGV: interval, tolerance, longest wait, pause, all in whole microseconds.
-- Returns {admitted, microseconds to wait}. Numbers are formatted, since Lua's tostring keeps
-- 14 digits and would lose the microseconds.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local tat = tonumber(redis.call('GET', KEYS[1]))
if not tat then
  -- Lost (failover, eviction) or never there: begin with no burst, so a loss only slows us.
  tat = now + tolerance
end
local pause = tonumber(ARGV[4])
if pause > 0 then
  tat = math.max(tat, now + pause + tolerance)
  redis.call('SET', KEYS[1], string.format('%.0f', tat), 'EX', 86400)
  return {0, pause}
end
-- After a failover to a server whose clock is behind, TAT lies ahead: it is kept.
tat = math.max(tat, now)
local wait = math.max(0, tat - tolerance - now)
if wait > tonumber(ARGV[3]) then
  return {0, wait}
end
redis.call('SET', KEYS[1], string.format('%.0f', tat + interval), 'EX', 86400)
return {1, wait}
