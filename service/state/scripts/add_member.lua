-- add_member(sums, events; member, vector, ttl_ms, event, token) -> {outcome [, numbers held]}
--
-- Adds observations of one member to its sum, and to that of their month.
--
-- KEYS[1] hash  {t:<tenant>:m}:sum:<basis>     member -> packed doubles: count, month, count of the month, count of the month before,
--                                              then three vectors: everything, the month, the month before          written here
-- KEYS[2] hash  {t:<tenant>:m}:events:<basis>  event id -> ""; what was added once is not added again; "\1" .. member -> the token of the
--                                              last addition                                                       written here
-- ARGV[1] member   its name
-- ARGV[2] vector   packed doubles: count, month, numbers...
-- ARGV[3] ttl_ms   time to live of both keys, set together
-- ARGV[4] event    an event id, or "" for an addition that is not to be remembered
-- ARGV[5] token    8 random bytes of this request: a client that repeats it because it lost the answer adds once
--
-- Result: {"applied"} | {"duplicate"}: the event was added before | {"shape", numbers held}. Only "applied" changes anything.
--         What is older than the month before counts in the whole sum alone.
-- Cluster: both keys carry the tenant's hash tag for members, so they are on one slot. No other key is touched.

local function doubles(packed, first, count)
  local found = {}
  for at = 0, count - 1 do found[at + 1] = struct.unpack('<d', packed, first + 8 * at) end
  return found
end

local function packed_of(numbers)
  local parts = {}
  for at, number in ipairs(numbers) do parts[at] = struct.pack('<d', number) end
  return table.concat(parts)
end

local member, vector, ttl_ms, event = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local size = #vector / 8 - 2
local added = doubles(vector, 1, size + 2)
local count, month = added[1], added[2]

local record = redis.call('HGET', KEYS[1], member)
local sum
if record then
  local held = (#record / 8 - 4) / 3
  if held ~= size then return {'shape', held} end
  sum = doubles(record, 1, 4 + 3 * size)
else
  sum = {0, month, 0, 0}
  for at = 1, 3 * size do sum[4 + at] = 0 end
end
if redis.call('HGET', KEYS[2], '\1' .. member) == ARGV[5] then return {'applied'} end
if event ~= '' and redis.call('HSETNX', KEYS[2], event, '') == 0 then return {'duplicate'} end

if month > sum[2] then -- a new month begins: this one becomes the one before, or is older than that
  local follows = month == sum[2] + 1
  sum[4] = follows and sum[3] or 0
  sum[3] = 0
  for at = 1, size do
    sum[4 + 2 * size + at] = follows and sum[4 + size + at] or 0
    sum[4 + size + at] = 0
  end
  sum[2] = month
end
local parts = {{1, 4}}
if month == sum[2] then parts[2] = {3, 4 + size} end
if month == sum[2] - 1 then parts[2] = {4, 4 + 2 * size} end
for _, part in ipairs(parts) do
  sum[part[1]] = sum[part[1]] + count
  for at = 1, size do sum[part[2] + at] = sum[part[2] + at] + added[2 + at] end
end

redis.call('HSET', KEYS[1], member, packed_of(sum))
redis.call('HSET', KEYS[2], '\1' .. member, ARGV[5])
redis.call('PEXPIRE', KEYS[1], ttl_ms)
redis.call('PEXPIRE', KEYS[2], ttl_ms)
return {'applied'}
