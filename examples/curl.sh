#!/usr/bin/env bash
# The recipes of the README against a running server; stops with an error at the first answer that is not as expected.
#
#   npm start                      in one terminal
#   bash examples/curl.sh          in another; SURICATE_URL and SURICATE_KEY say where and with which key
set -euo pipefail

base=${SURICATE_URL:-http://127.0.0.1:8080}
curl=(curl --silent --show-error --no-buffer --max-time 30)
if [ -n "${SURICATE_KEY:-}" ]; then curl+=(--header "Authorization: Bearer $SURICATE_KEY"); fi
# Answered at once with 202, while the turn runs.
async=(--header 'Prefer: respond-async' --write-out '\n')

# expect TEXT WHERE: fails unless WHERE contains TEXT.
expect() {
  if [[ $2 != *"$1"* ]]; then
    printf 'Expected %s in:\n%s\n' "$1" "$2" >&2
    exit 1
  fi
}

echo '# Create a session: its first turn runs and its result is the answer'
answer=$("${curl[@]}" --json '{"prompt": "Hello there"}' "$base/sessions")
echo "$answer"
expect '"text":"Hello there"' "$answer"

# An idle session with the agent that plays its prompt as a script.
path=$("${curl[@]}" --output /dev/null --write-out '%header{location}' \
  --json '{"agent": "scripted", "initial_turn": "deferred"}' "$base/sessions")
session=$base$path

echo '# Stream a turn'
stream=$("${curl[@]}" --json '{"prompt": "say Let me add that up.\ntool add {\"a\": 2, \"b\": 40}\nsay The sum is 42."}' \
  "$session/turns/stream")
echo "$stream"
expect 'event: tool_execution_completed' "$stream"
expect '"text":"The sum is 42."' "$(tail -n 2 <<<"$stream")"

echo '# Interrupt another'
"${curl[@]}" "${async[@]}" --json '{"prompt": "say On it.\nhang"}' "$session/turns"
answer=$("${curl[@]}" --request POST "$session/interrupt")
echo "$answer"
expect '"interrupted":true' "$answer"
stream=$("${curl[@]}" "$session/turns/2/events")
expect 'event: run_interrupted' "$stream"

echo '# Cut a stream and resume it'
"${curl[@]}" "${async[@]}" --json '{"prompt": "say one, two, three\nwait 300\nsay , four, five."}' \
  "$session/turns"
# sed leaves behind the first event that has a delta; curl then fails, because nobody takes what it reads.
first=$("${curl[@]}" "$session/turns/3/events" 2>/dev/null | sed '/"text_delta"/{n;q;}') || true
last=$(sed -n 's/^id: //p' <<<"$first" | tail -n 1)
echo "cut after event $last"
rest=$("${curl[@]}" --header "Last-Event-ID: $last" "$session/turns/3/events")
echo "$rest"
expect "id: $((last + 1))" "$(head -n 4 <<<"$rest")"
expect '"text":"one, two, three, four, five."' "$rest"

echo '# Busy? Attach to the turn that is in the way'
"${curl[@]}" "${async[@]}" --json '{"prompt": "say Working.\nhang"}' "$session/turns"
answer=$("${curl[@]}" --write-out '\n%header{location}' --json '{"prompt": "say Me too."}' "$session/turns")
echo "$answer"
expect '"code":"SESSION_BUSY"' "$answer"
exec 3< <("${curl[@]}" "$base$(tail -n 1 <<<"$answer")/events")
answer=$("${curl[@]}" --request POST "$session/interrupt")
echo "$answer"
stream=$(cat <&3)
expect '"text":"Working."' "$stream"

answer=$("${curl[@]}" --request DELETE "$session")
expect '"archived":true' "$answer"
echo '# All as expected'
