-- What is done to a user's events and log; stands before the scripts that `Script.load` names it with.
--
-- events  hash: 12 bytes of an event id's hash -> 8 bytes of the body's digest, place (4 bytes, little-endian);
--               "\2" -> the names of all bases, joined by commas, in the order in which they came; "\3" -> entries that left the log;
--               "\4" .. 12 bytes -> 16 bytes of the tag of a user that was merged into this one, under the event with that hash, and one
--               byte more while that user's log is being received; "\5" .. 12 bytes -> likewise of one who was merged into such a user
-- place   below 2^30 the number of the log's entry, counted from 1, which has left the log if it is not above "\3"; from 2^30 on the token
--         of the request, for an event that was never logged; 2^31 more for one that was taken back
-- log     list: kind (1 byte: "c" a comparison, "x" one that was taken back), 4 bytes of the user's tag, token (4 bytes), basis (2 bytes, its
--         place among the names, from 0), and what codec.py packs
--
-- Both live as long as the user does; the log loses its oldest entries, the events lose none.
--
-- A user's sums, events, log and replays have one time to live, under whichever basis a comparison came: a sum that went before the log that
-- it is the sum of would be begun anew, and what the log still has would be subtracted from it.

local NEVER_LOGGED, TAKEN_BACK = 1073741824, 2147483648

local function place_of(known)
  return struct.unpack('<I4', known, 9)
end

local function bases_of(events)
  local names = {}
  for name in (redis.call('HGET', events, '\2') or ''):gmatch('[^,]+') do names[#names + 1] = name end
  return names
end

-- The place of a basis among the names, from 0; it is added to them if need be.
local function basis_number(events, basis)
  local names = bases_of(events)
  for at, name in ipairs(names) do
    if name == basis then return at - 1 end
  end
  names[#names + 1] = basis
  redis.call('HSET', events, '\2', table.concat(names, ','))
  return #names - 1
end

local function left_log(events)
  return tonumber(redis.call('HGET', events, '\3') or 0)
end

-- How many comparisons of the log there are among these events: those that were neither taken back nor have left it.
local function logged_among(fields, events, log)
  local many, left, there = 0, left_log(events), redis.call('EXISTS', log) == 1
  for i = 1, there and #fields or 0, 2 do
    if #fields[i] == 12 then
      local place = place_of(fields[i + 1])
      if place > left and place < NEVER_LOGGED then many = many + 1 end
    end
  end
  return many
end

-- The entry of the log with this number; nil if it has left the log or never was in it.
local function entry_at(events, log, number)
  local index = number - left_log(events) - 1
  if index < 0 or number >= NEVER_LOGGED then return nil end
  return redis.call('LINDEX', log, string.format('%.0f', index)) or nil
end

-- Puts an entry at the end of the log, whose oldest go if there are too many, with what was replayed of them; returns its number.
local function append(events, log, entry, max_log, replayed_prefix)
  local first = left_log(events)
  local length = redis.call('LLEN', log)
  if max_log > 0 then length = redis.call('RPUSH', log, entry) end
  local number = first + length
  local over = length - max_log
  if over <= 0 then return number end
  if over > 100 then over = 100 end -- after max_log was lowered: a bounded step per call
  redis.call('LTRIM', log, over, -1)
  redis.call('HSET', events, '\3', string.format('%.0f', first + over))
  for _, basis in ipairs(bases_of(events)) do
    for gone = first + 1, first + over do redis.call('HDEL', replayed_prefix .. basis, struct.pack('<I4', gone)) end
  end
  return number
end

-- Sets the time to live of everything that was learned of a user.
local function live_for(ttl_ms, events, log, sum_prefix, replayed_prefix)
  redis.call('PEXPIRE', events, ttl_ms)
  redis.call('PEXPIRE', log, ttl_ms)
  for _, basis in ipairs(bases_of(events)) do
    redis.call('PEXPIRE', sum_prefix .. basis, ttl_ms)
    redis.call('PEXPIRE', replayed_prefix .. basis, ttl_ms)
  end
end
