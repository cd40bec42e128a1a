// Runs the quickstart of the README of etcd's Node client as it is written there: the text is read
// from the installed package and run as a program of its own.
'use strict';

const { spawnSync } = require('node:child_process');
const { readFileSync, writeFileSync } = require('node:fs');
const { dirname, join } = require('node:path');

const folder = process.argv[2];
const installed = dirname(require.resolve('etcd3/package.json', { paths: [folder] }));
const readme = join(installed, 'readme.md');
const program = /```js\n([\s\S]*?)```/.exec(readFileSync(readme, 'utf8'))[1];
const file = join(folder, 'readme-quickstart.js');
writeFileSync(file, program + "\nsetTimeout(() => process.exit(0), 3000);\n");
const ran = spawnSync(process.execPath, [file], { cwd: folder, timeout: 20000 });
process.stdout.write(ran.stdout);
process.stderr.write(ran.stderr);
process.exit(ran.status === null ? 1 : ran.status);
