#!/usr/bin/env bash
# Packs the package, installs the tarball in an empty folder, and uses it from there: both entries, the service, the command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

npm pack --silent --pack-destination "$work" > /dev/null
cd "$work"
npm init --yes > /dev/null
npm install --no-audit --no-fund ./ddad-native-*.tgz
node -e "const { Detector } = require('ddad-native'); if (typeof Detector.load !== 'function') process.exit(1);"
node --input-type=module -e "import { Trainer } from 'ddad-native'; if (typeof Trainer !== 'function') process.exit(1);"
node -e "const { startService } = require('ddad-native/service'); if (typeof startService !== 'function') process.exit(1);"
node --input-type=module -e "import { createApp } from 'ddad-native/service'; if (typeof createApp !== 'function') process.exit(1);"
npx --no-install ddad-native info --json
