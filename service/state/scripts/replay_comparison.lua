-- replay_comparison(sum, events, log, replayed; seal, event, basis, vector) -> {outcome}
--
-- Adds what a logged comparison is worth under another basis to the user's sum under that basis, once per event and basis.
--
-- KEYS[1] string  {user}:sum:<basis>       the sum to add to, see add_comparison                                  written here
-- KEYS[2] hash    {user}:events            the event must be known; "\1" .. basis -> "" for every basis with a sum;
--                                          "\2" -> names of all bases with replayed comparisons, joined by commas   written here
-- KEYS[3] stream  {user}:log               holds the comparison, with the basis that it was first learned under
-- KEYS[4] hash    {user}:replayed:<basis>  event id -> the vector that was added here, for taking it back           written here
-- ARGV[1] seal     17 bytes that open the user's sum record
-- ARGV[2] event    the event id
-- ARGV[3] basis    the basis id of KEYS[1] and KEYS[4]
-- ARGV[4] vector   packed doubles: epoch, observed_s, evidence...
--
-- Result: {"applied"} | {"present"}: the sum has it | {"gone"}: taken back, or no longer in the log | {"shape", doubles held}
--         | {"wrong-user"}. Only "applied" changes anything. Times to live become those of the events: a replay is no sign of life.
-- Cluster: all keys carry the user's hash tag, so they are on one slot. No other key is touched.

local seal, event, basis, vector = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local known = redis.call('HGET', KEYS[2], event)
if not known or known:sub(25) == 'x' then return {'gone'} end
local id = known:sub(25)
local entry = redis.call('XRANGE', KEYS[3], id, id)[1]
if not entry then return {'gone'} end
local fields = {}
for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
if fields.tag ~= seal:sub(2) then return {'wrong-user'} end
if fields.basis == basis or redis.call('HEXISTS', KEYS[4], event) == 1 then return {'present'} end

local size = #vector / 8
local added = {struct.unpack('<' .. string.rep('d', size), vector)}
local epoch, observed_s = added[1], added[2]

local stored = redis.call('GET', KEYS[1])
local sum
if stored then
  if stored:sub(1, #seal) ~= seal then return {'wrong-user'} end
  local held = (#stored - #seal) / 8
  if held ~= size + 2 then return {'shape', held - 4} end
  sum = {struct.unpack('<' .. string.rep('d', held), stored, #seal + 1)}
  local ahead = epoch - sum[2]
  local shift = math.max(-256 * math.abs(ahead), -4096) -- 2^-4096 is 0 already, and fits the C int of ldexp
  if ahead > 0 then
    for i = 5, held do sum[i] = math.ldexp(sum[i], shift) end
    sum[2] = epoch
  elseif ahead < 0 then
    for i = 3, size do added[i] = math.ldexp(added[i], shift) end
  end
  sum[1] = sum[1] + 1
  sum[3] = math.min(sum[3], observed_s)
  sum[4] = math.max(sum[4], observed_s)
  for i = 3, size do sum[i + 2] = sum[i + 2] + added[i] end
else
  sum = {1, epoch, observed_s, observed_s}
  for i = 3, size do sum[i + 2] = added[i] end
end

local ttl_ms = math.max(1, redis.call('PTTL', KEYS[2]))
redis.call('SET', KEYS[1], seal .. struct.pack('<' .. string.rep('d', size + 2), unpack(sum)), 'PX', ttl_ms)
redis.call('HSET', KEYS[4], event, vector)
redis.call('PEXPIRE', KEYS[4], ttl_ms)
local bases = redis.call('HGET', KEYS[2], '\2')
if not bases then
  bases = basis
elseif not (',' .. bases .. ','):find(',' .. basis .. ',', 1, true) then
  bases = bases .. ',' .. basis
end
redis.call('HSET', KEYS[2], '\1' .. basis, '', '\2', bases)
return {'applied'}
