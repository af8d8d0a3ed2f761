-- Return the dead notices, oldest first: member, when it was given up, and the sealed notice.
-- KEYS: as in settle_notice.lua.
local found = redis.call('ZRANGE', KEYS[5], 0, -1, 'WITHSCORES')
local listed = {}
for i = 1, #found, 2 do
  local sealed = redis.call('HGET', KEYS[1], found[i])
  if sealed then
    listed[#listed + 1] = found[i]
    listed[#listed + 1] = found[i + 1]
    listed[#listed + 1] = sealed
  end
end
return listed
