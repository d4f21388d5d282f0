-- What is done to the record of a user's sum; stands before the scripts that `Script.load` names it with.
--
-- record  seal (17 bytes), width (1 byte), four doubles: count, epoch, first_seen_s, last_seen_s; then the evidence: whole steps of 2^-24 in
--         `width` bytes each, which is exact, or doubles where it is 8
-- vector  packed doubles: epoch, observed_s, evidence...
--
-- misfit(record, seal, vector)     -> the result to refuse with, {"wrong-user"} | {"shape", doubles held}; nil if the vector fits
-- with(record, seal, vector)       -> the record with the vector added; a first one where `record` is false
-- without(record, seal, vector)    -> the record with the vector subtracted, or nil if no comparison is left in it
-- merged(record, seal, other)      -> the record with the record `other` added, which has the same seal; `other` where `record` is false
--
-- `with` and `without` trust that `misfit` was asked. No key is touched and no command is called.

local GRID = 16777216 -- 2^24

local function doubles(packed, first, count)
  return {struct.unpack('<' .. string.rep('d', count), packed, first)}
end

-- The fewest bytes that hold `count` numbers of `sum` from the fifth on as whole steps of 2^-24, and 8, for doubles, if they are none.
local function width_of(sum, count)
  local most = 0
  for i = 5, count do
    local steps = sum[i] * GRID
    if steps ~= math.floor(steps) or (steps == 0 and 1 / steps < 0) then return 8 end
    most = math.max(most, math.abs(steps))
  end
  for width = 1, 6 do
    if most < 2 ^ (8 * width - 1) then return width end
  end
  return 8
end

local function sealed(seal, sum, count)
  local width = width_of(sum, count)
  local head = seal .. string.char(width) .. struct.pack('<dddd', unpack(sum, 1, 4))
  if width == 8 then return head .. struct.pack('<' .. string.rep('d', count - 4), unpack(sum, 5, count)) end
  local steps = {}
  for i = 5, count do steps[i - 4] = sum[i] * GRID end
  return head .. struct.pack('<' .. string.rep('i' .. width, count - 4), unpack(steps, 1, count - 4))
end

-- The four numbers of a record's header and its evidence, `size + 4` numbers in all.
local function opened(record, seal)
  local width = record:byte(#seal + 1)
  local size = (#record - #seal - 33) / width
  local sum = {struct.unpack('<dddd', record, #seal + 2)}
  local kind = width == 8 and 'd' or ('i' .. width)
  local body = {struct.unpack('<' .. string.rep(kind, size), record, #seal + 34)}
  local scale = width == 8 and 1 or 1 / GRID
  for i = 1, size do sum[i + 4] = body[i] * scale end
  return sum
end

local function misfit(record, seal, vector)
  if record:sub(1, #seal) ~= seal then return {'wrong-user'} end
  local held = (#record - #seal - 33) / record:byte(#seal + 1)
  if held ~= #vector / 8 - 2 then return {'shape', held} end
end

-- Scales a sum and `size` doubles of a vector, in place, to the later of their two epochs, which are 256 half-lives apart: `align` of
-- models/seam/evidence.py.
local function align(sum, vector, size)
  local ahead = vector[1] - sum[2]
  local shift = math.max(-256 * math.abs(ahead), -4096) -- 2^-4096 is 0 already, and fits the C int of ldexp
  if ahead > 0 then
    for i = 5, size + 2 do sum[i] = math.ldexp(sum[i], shift) end
    sum[2] = vector[1]
  elseif ahead < 0 then
    for i = 3, size do vector[i] = math.ldexp(vector[i], shift) end
  end
end

local function with(record, seal, vector)
  local size = #vector / 8
  local added = doubles(vector, 1, size)
  local observed_s = added[2]
  local sum
  if record then
    sum = opened(record, seal)
    align(sum, added, size)
    sum[1] = sum[1] + 1
    sum[3] = math.min(sum[3], observed_s)
    sum[4] = math.max(sum[4], observed_s)
    for i = 3, size do sum[i + 2] = sum[i + 2] + added[i] end
  else
    sum = {1, added[1], observed_s, observed_s}
    for i = 3, size do sum[i + 2] = added[i] end
  end
  return sealed(seal, sum, size + 2)
end

local function without(record, seal, vector)
  local size = #vector / 8
  local taken = doubles(vector, 1, size)
  local sum = opened(record, seal)
  align(sum, taken, size)
  sum[1] = sum[1] - 1
  if sum[1] <= 0 then return nil end
  for i = 3, size do sum[i + 2] = sum[i + 2] - taken[i] end
  return sealed(seal, sum, size + 2)
end

local function merged(record, seal, other)
  if not record then return other end
  local sum, added = opened(record, seal), opened(other, seal)
  local vector = {added[2], added[4]}
  for i = 5, #added do vector[i - 2] = added[i] end
  align(sum, vector, #vector)
  sum[1] = sum[1] + added[1]
  sum[3] = math.min(sum[3], added[3])
  sum[4] = math.max(sum[4], added[4])
  for i = 5, #added do sum[i] = sum[i] + vector[i - 2] end
  return sealed(seal, sum, #added)
end
