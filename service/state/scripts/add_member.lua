-- add_member(sums, events; member, vector, ttl_ms, event, token, window) -> {outcome [, numbers held]}
--
-- Adds observations of one member to its sum, to that of their month, and to that of its latest ones.
--
-- KEYS[1] hash  {t:<tenant>:m}:sum:<basis>     member -> packed doubles: count, month, count of the month, of the month before, of the
--                                              window, of the window before, then five vectors: everything, the month, the month
--                                              before, the window, the window before                                written here
-- KEYS[2] hash  {t:<tenant>:m}:events:<basis>  event id -> ""; what was added once is not added again; "\1" .. member -> the token of the
--                                              last addition                                                       written here
-- ARGV[1] member   its name
-- ARGV[2] vector   packed doubles: count, month, numbers...
-- ARGV[3] ttl_ms   time to live of both keys, set together
-- ARGV[4] event    an event id, or "" for an addition that is not to be remembered
-- ARGV[5] token    8 random bytes of this request: a client that repeats it because it lost the answer adds once
-- ARGV[6] window   observations after which a new window begins; what comes under an event id (an import) is in no window
--
-- Result: {"applied"} | {"duplicate"}: the event was added before | {"shape", numbers held}. Only "applied" changes anything.
--         What is older than the month before counts in the whole sum alone.
-- Cluster: both keys carry the tenant's hash tag for members, so they are on one slot. No other key is touched.

local HEAD, PARTS = 6, 5

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
  local held = (#record / 8 - HEAD) / PARTS
  if held ~= size then return {'shape', held} end
  sum = doubles(record, 1, HEAD + PARTS * size)
else
  sum = {0, month, 0, 0, 0, 0}
  for at = 1, PARTS * size do sum[HEAD + at] = 0 end
end
if redis.call('HGET', KEYS[2], '\1' .. member) == ARGV[5] then return {'applied'} end
if event ~= '' and redis.call('HSETNX', KEYS[2], event, '') == 0 then return {'duplicate'} end

-- Part p (0: everything) has its count at place count_of[p] and its vector from HEAD + p * size on.
local count_of = {[0] = 1, 3, 4, 5, 6}

local function move(from, to, keep)
  sum[count_of[to]] = keep and sum[count_of[from]] or 0
  sum[count_of[from]] = 0
  for at = HEAD + 1, HEAD + size do
    sum[at + to * size] = keep and sum[at + from * size] or 0
    sum[at + from * size] = 0
  end
end

if month > sum[2] then -- a new month begins: this one becomes the one before, or is older than that
  move(1, 2, month == sum[2] + 1)
  sum[2] = month
end
local parts = {0}
if month == sum[2] then parts[2] = 1 end
if month == sum[2] - 1 then parts[2] = 2 end
if event == '' then
  if sum[count_of[3]] >= tonumber(ARGV[6]) then move(3, 4, true) end
  parts[#parts + 1] = 3
end
for _, part in ipairs(parts) do
  sum[count_of[part]] = sum[count_of[part]] + count
  for at = 1, size do sum[HEAD + part * size + at] = sum[HEAD + part * size + at] + added[2 + at] end
end

redis.call('HSET', KEYS[1], member, packed_of(sum))
redis.call('HSET', KEYS[2], '\1' .. member, ARGV[5])
redis.call('PEXPIRE', KEYS[1], ttl_ms)
redis.call('PEXPIRE', KEYS[2], ttl_ms)
return {'applied'}
