#!/usr/bin/env bash
# Runs the check in the working directory, and ends with its exit code.
#
# SUBJECT, BASE, CASE, TOLERANCE, BUDGET, INCONCLUSIVE and ARGUMENTS are the inputs of action.yml; BEFORE is the
# commit that a push was made to. GitHub sets the other variables.
set -euo pipefail

case "$INCONCLUSIVE" in
  pass | fail) ;;
  *)
    echo "::error::inconclusive: $INCONCLUSIVE: must be pass or fail"
    exit 2
    ;;
esac

# Prints the commit that a name stands for. A shallow clone has to fetch it first.
commit_of() {
  git rev-parse --verify --quiet "$1^{commit}" && return
  if git fetch --quiet --no-tags --depth=1 origin "$1" >&2; then
    git rev-parse --verify --quiet "FETCH_HEAD^{commit}" && return
  fi
  echo "::error::base: $1: no such revision in this repository or its origin; a checkout with fetch-depth: 0 has all" >&2
  return 2
}

# Prints the commit of BASE: the input, the parent that a pull request is merged into, or what was pushed to before.
base_commit() {
  if [ -n "${BASE:-}" ]; then
    commit_of "$BASE"
  elif [ "${GITHUB_EVENT_NAME:-}" = pull_request ]; then
    if [ "$(git rev-parse HEAD)" = "${GITHUB_SHA:-}" ]; then  # the merge, whose first parent it is merged into
      if git rev-parse --verify --quiet "HEAD^1^{commit}"; then return; fi
      git fetch --quiet --no-tags --depth=2 origin "$GITHUB_SHA" >&2 || true
      if git rev-parse --verify --quiet "HEAD^1^{commit}"; then return; fi
    fi
    tip=$(git rev-parse --verify --quiet "refs/remotes/origin/$GITHUB_BASE_REF^{commit}" || commit_of "$GITHUB_BASE_REF") || return
    # where the workflow checks out the branch of the pull request itself, which may be one commit only
    if ! git merge-base HEAD "$tip"; then
      git fetch --quiet --no-tags --unshallow origin "$(git rev-parse HEAD)" "$tip" >&2 || true
      git merge-base HEAD "$tip" || echo "$tip"
    fi
  elif [ -n "${BEFORE//0/}" ]; then
    commit_of "$BEFORE"
  else
    echo "::error::base: give the revision to compare with; this event has none" >&2
    return 2
  fi
}

BEFORE=${BEFORE:-}
base=$(base_commit)
record=$RUNNER_TEMP/regress.json
summary=$RUNNER_TEMP/regress.md
log=$RUNNER_TEMP/regress.log
rm -f "$record" "$summary" "$log"
arguments=(--subject "$SUBJECT" --base "$base" --tolerance "$TOLERANCE" --budget "$BUDGET")
arguments+=(--output "$record" --markdown "$summary")
while IFS= read -r line; do
  if [ -n "$line" ]; then arguments+=(--case "$line"); fi
done <<< "${CASE:-}"
if [ -n "${ARGUMENTS:-}" ]; then
  read -r -d "" -a further <<< "$ARGUMENTS" || true  # of all lines
  arguments+=("${further[@]}")
fi

code=0
python -P -m bench regress "${arguments[@]}" 2> "$log" || code=$?  # -P: a `gan` or `bench` that is here is not ours
cat "$log"
if [ ! -f "$summary" ]; then tail -n 1 "$log" > "$summary"; fi  # why it was refused
cat "$summary" >> "$GITHUB_STEP_SUMMARY"
echo "exit-code=$code" >> "$GITHUB_OUTPUT"
if [ -f "$record" ]; then echo "record=$record" >> "$GITHUB_OUTPUT"; fi

case "$code" in
  0) ;;
  1) echo "::error::$(head -n 1 "$summary" | sed 's/^[# ]*//'); see the summary" ;;
  3) echo "::warning::inconclusive: this runner is too noisy, or the budget too small; see the summary" ;;
  *) echo "::error::$(tail -n 1 "$log")" ;;
esac
if [ "$code" = 3 ] && [ "$INCONCLUSIVE" = pass ]; then code=0; fi
exit "$code"
