-- Store an access request if its stored copy is the one that the caller knows; notify all replicas.
-- Store notices about it in the outbox of webhooks.
-- KEYS: as in list_requests.lua, then the keys of claim_notices.lua.
-- ARGV: ID, the revision that the caller knows ('' if none is stored), the version of the whole that
-- the caller knows ('' if it does not matter, 'none' if the store has none), a new revision and version
-- (random: a server that lost data must not reach an earlier value again by counting), the sealed
-- request, the largest number of requests, channel, message, largest number of notices, now, then
-- member, time and sealed form of each notice. One whose time comes later is scheduled. Those beyond
-- their number are dropped.
-- Returns 1 if stored, 0 if another copy or version is there, -1 if there is no room.
local revision = redis.call('HGET', KEYS[2], ARGV[1]) or ''
if revision ~= ARGV[2] then
  return 0
end
if ARGV[3] ~= '' and (redis.call('HGET', KEYS[2], 'version') or 'none') ~= ARGV[3] then
  return 0
end
if revision == '' and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[7]) then
  return -1
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[6])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4], 'version', ARGV[5])
redis.call('PUBLISH', ARGV[8], ARGV[9])
for i = 12, #ARGV, 3 do
  local is_later = tonumber(ARGV[i + 1]) > tonumber(ARGV[11])
  local waiting = is_later and KEYS[6] or KEYS[4]
  if redis.call('ZCARD', waiting) < tonumber(ARGV[10])
      and redis.call('HSETNX', KEYS[3], ARGV[i], ARGV[i + 2]) == 1 then
    redis.call('ZADD', waiting, ARGV[i + 1], ARGV[i])
    if not is_later then
      redis.call('ZADD', KEYS[5], 0, ARGV[i])
    end
  end
end
return 1
