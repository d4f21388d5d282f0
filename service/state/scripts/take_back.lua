-- take_back(sum, events, log; seal, event, token, sum_prefix, ttl_ms, replayed_prefix, entry, mark, basis, vector, packed...)
--   -> {outcome [, sum record]}
--
-- Subtracts from a user's sums exactly what one event added to each, and marks the event so that a late repeat is refused.
-- Uses sum_records and user_log.
--
-- KEYS[1] string  {user}:sum:<basis>   the sum to answer with
-- KEYS[2] hash    {user}:events        see user_log; the event's place says that it was taken back                  written here
-- KEYS[3] list    {user}:log           see user_log; a mark without the comparison's content takes the entry's place  written here
-- ARGV[1] seal        17 bytes that open the user's sum record
-- ARGV[2] event       12 bytes of the event id's hash
-- ARGV[3] token       4 random bytes of this request: a client that repeats a request whose answer it lost is answered, not refused
-- ARGV[4] sum_prefix  "{user}:sum:"; with a basis it names a sum to subtract from
-- ARGV[5] ttl_ms      time to live of all keys, set together
-- ARGV[6] replayed_prefix  "{user}:replayed:"; with a basis it names what replay_comparison added
-- ARGV[7] entry       the entry of the log as the caller read it
-- ARGV[8] mark        what the mark holds behind its head: the event id, packed
-- ARGV[9...] triples  basis; packed doubles: epoch, observed_s, evidence...; and the same as replay_comparison keeps it. First that of the
--                     entry itself, whose third is empty, then every basis under which the caller found a replay
--
-- Result: {"taken", record or nil} | {"unknown"} | {"taken-back"} (by an earlier request) | {"changed"}: read again and repeat
--         | {"shape", doubles held} | {"wrong-user"}. Only the first "taken" changes anything.
-- Cluster: the sums that are subtracted from may be of other bases than KEYS[1]; they have the same hash tag, hence the same slot.

local seal, event, token, sum_prefix, ttl_ms, replayed_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local known = redis.call('HGET', KEYS[2], event)
if not known then return {'unknown'} end
local place = place_of(known)
if place >= TAKEN_BACK then
  local mark = entry_at(KEYS[2], KEYS[3], place - TAKEN_BACK)
  if mark and mark:sub(6, 9) == token then return {'taken', redis.call('GET', KEYS[1])} end
  return {'taken-back'}
end
local entry = entry_at(KEYS[2], KEYS[3], place)
if entry ~= ARGV[7] then return {'changed'} end
if entry:sub(2, 5) ~= seal:sub(2, 5) then return {'wrong-user'} end

-- What is to be subtracted, from which sum; looked at whole before anything is changed.
local parts, given = {{ARGV[9], ARGV[10]}}, {}
for at = 12, #ARGV, 3 do
  parts[#parts + 1] = {ARGV[at], ARGV[at + 1]}
  given[ARGV[at]] = ARGV[at + 2]
end
local field = struct.pack('<I4', place)
for _, basis in ipairs(bases_of(KEYS[2])) do
  if (redis.call('HGET', replayed_prefix .. basis, field) or nil) ~= given[basis] then return {'changed'} end
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
      redis.call('SET', sum_prefix .. part[1], record)
    else
      redis.call('DEL', sum_prefix .. part[1])
    end
  end
  redis.call('HDEL', replayed_prefix .. part[1], field)
end

redis.call('LSET', KEYS[3], string.format('%.0f', place - left_log(KEYS[2]) - 1), 'x' .. entry:sub(2, 5) .. token .. entry:sub(10, 11) .. ARGV[8])
redis.call('HSET', KEYS[2], event, known:sub(1, 8) .. struct.pack('<I4', TAKEN_BACK + place))
live_for(ttl_ms, KEYS[2], KEYS[3], sum_prefix, replayed_prefix)
return {'taken', redis.call('GET', KEYS[1])}
