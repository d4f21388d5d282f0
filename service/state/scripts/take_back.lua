-- take_back(sum, events, log; seal, event, token, sum_prefix, ttl_ms, replayed_prefix) -> {outcome [, sum record]}
--
-- Subtracts from a user's sums exactly what one event added to each, and marks the event so that a late repeat is refused.
-- Uses sum_records, which stands before it.
--
-- KEYS[1] string  {user}:sum:<basis>   the sum to answer with
-- KEYS[2] hash    {user}:events        the event's value becomes digest .. token .. "x"
-- KEYS[3] stream  {user}:log           the entry goes, a mark (kind "x") without the comparison's content comes
-- ARGV[1] seal        17 bytes that open the user's sum record
-- ARGV[2] event       the event id
-- ARGV[3] token       8 random bytes of this request: a client that repeats a request whose answer it lost is answered, not refused
-- ARGV[4] sum_prefix  "{user}:sum:"; with the logged basis it names the sum to subtract from
-- ARGV[5] ttl_ms      time to live of all keys, set together
-- ARGV[6] replayed_prefix  "{user}:replayed:"; what replay_comparison added under other bases is subtracted there
--
-- Result: {"taken", record or nil} | {"unknown"} | {"taken-back"} (by an earlier request) | {"shape", doubles held} | {"wrong-user"}.
--         Only the first "taken" changes anything.
-- Cluster: the sums that are subtracted from may be of other bases than KEYS[1]; they have the same hash tag, hence the same slot.

local seal, event, token, sum_prefix, ttl_ms, replayed_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local known = redis.call('HGET', KEYS[2], event)
if not known then return {'unknown'} end
if known:sub(25) == 'x' then
  if known:sub(17, 24) == token then return {'taken', redis.call('GET', KEYS[1])} end
  return {'taken-back'}
end

local id = known:sub(25)
local entry = redis.call('XRANGE', KEYS[3], id, id)[1]
if not entry then return {'unknown'} end
local fields = {}
for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
if fields.tag ~= seal:sub(2) then return {'wrong-user'} end

-- What is to be subtracted, from which sum; looked at whole before anything is changed.
local parts = {{fields.basis, fields.vector}}
for basis in (redis.call('HGET', KEYS[2], '\2') or ''):gmatch('[^,]+') do
  local vector = redis.call('HGET', replayed_prefix .. basis, event)
  if vector then parts[#parts + 1] = {basis, vector} end
end
for _, part in ipairs(parts) do
  part.stored = redis.call('GET', sum_prefix .. part[1])
  local refused = part.stored and misfit(part.stored, seal, part[2])
  if refused then return refused end
end

for _, part in ipairs(parts) do
  if part.stored then
    local record = without(part.stored, seal, part[2])
    if record then
      redis.call('SET', sum_prefix .. part[1], record, 'PX', ttl_ms)
    else
      redis.call('DEL', sum_prefix .. part[1])
    end
  end
  redis.call('HDEL', replayed_prefix .. part[1], event)
  redis.call('PEXPIRE', replayed_prefix .. part[1], ttl_ms)
end

redis.call('XDEL', KEYS[3], id)
redis.call('XADD', KEYS[3], '*', 'kind', 'x', 'tag', seal:sub(2), 'event', event)
redis.call('HSET', KEYS[2], event, known:sub(1, 16) .. token .. 'x')
redis.call('PEXPIRE', KEYS[2], ttl_ms)
redis.call('PEXPIRE', KEYS[3], ttl_ms)
return {'taken', redis.call('GET', KEYS[1])}
