// What the Node client offers beyond its README's quickstart.
'use strict';

const folder = process.argv[2];
const { Etcd3, isRecoverableError } = require(require.resolve('etcd3', { paths: [folder] }));

const print = (...what) => console.log(...what.map((one) => JSON.stringify(one)));
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function keys(client) {
  for (let i = 0; i < 5; i++) await client.put(`node/${i}`).value(String(i));
  print(await client.getAll().prefix('node/').strings());
  print(await client.getAll().prefix('node/').sort('Key', 'Descend').limit(2).keys());
  print(await client.getAll().prefix('node/').count(), await client.get('node/none').string());
  const swapped = await client.if('node/0', 'Value', '==', '0')
    .then(client.put('node/0').value('zero')).else(client.get('node/0')).commit();
  print(swapped.succeeded, await client.get('node/0').number().catch((e) => e.constructor.name));
  print((await client.delete().prefix('node/')).deleted);
}

async function leases(client) {
  const lease = client.lease(10);
  await lease.put('node/leased').value('1');
  await lease.keepaliveOnce();
  print(await client.get('node/leased').string());
  await lease.revoke();
  print(await client.get('node/leased').string());
  const gone = await client.put('node/x').value('1').lease('4711').exec()
    .catch((error) => [error.constructor.name, isRecoverableError(error)]);
  print(gone);
}

async function locks(client) {
  const held = await client.lock('node/lock').ttl(10).acquire();
  const again = client.lock('node/lock').ttl(10).acquire();
  print(await again.then(() => 'twice', (error) => error.constructor.name));
  await held.release();
  print(await client.lock('node/lock').do(() => 'inside'));
}

async function watches(client) {
  const watcher = await client.watch().prefix('node/watched').create();
  const seen = [];
  watcher.on('put', (kv) => seen.push(['put', kv.key.toString(), kv.value.toString()]));
  watcher.on('delete', (kv) => seen.push(['delete', kv.key.toString()]));
  for (let i = 0; i < 3; i++) await client.put(`node/watched${i}`).value(String(i));
  await client.delete().key('node/watched1');
  for (let i = 0; i < 100 && seen.length < 4; i++) await pause(50);
  print(seen);
  await watcher.cancel();
}

async function memory(client) {
  await client.put('node/sum').value(0);
  const add = () => client.stm().transact(async (tx) => {
    await tx.put('node/sum').value(await tx.get('node/sum').number() + 1);
  });
  await Promise.all([add(), add(), add(), add()]);
  print(await client.get('node/sum').number());
}

async function elections(client) {
  const election = client.election('node/office', 5);
  const campaign = election.campaign('me');
  await new Promise((done, fail) => { campaign.on('elected', done); campaign.on('error', fail); });
  print(await election.leader());
  await campaign.proclaim('still me');
  print(await election.leader());
  await campaign.resign();
  print(await election.leader() === undefined);
}

(async () => {
  const client = new Etcd3();
  await client.delete().prefix('node/');
  for (const part of [keys, leases, locks, watches, memory, elections]) await part(client);
  const inside = client.namespace('node/space/');
  await inside.put('a').value('1');
  print(await inside.getAll().keys(), await client.get('node/space/a').string());
  client.close();
})().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
