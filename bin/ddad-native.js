#!/usr/bin/env node
'use strict';

const { main } = require('../dist/cli/index.js');

main(process.argv.slice(2)).then(
  (exitCode) => {
    process.exitCode = exitCode;
  },
  (error) => {
    process.stderr.write(`ddad-native: ${error?.message ?? error}\n`);
    process.exitCode = 1;
  },
);
