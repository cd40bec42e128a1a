"""What the Python client offers beyond its README's examples."""

import time

import etcd3

etcd = etcd3.client()
etcd.delete_prefix("python/")
for number in range(5):
    etcd.put(f"python/{number}", str(number))
print([(value, meta.key, meta.version) for value, meta in etcd.get_prefix("python/")])
print([value for value, _ in etcd.get_range("python/1", "python/3")])
print([value for value, _ in etcd.get_prefix("python/", sort_order="descend", sort_target="value")])
print(etcd.put_if_not_exists("python/0", "again"), etcd.put_if_not_exists("python/new", "1"))
print(etcd.replace("python/0", "0", "zero"), etcd.replace("python/0", "0", "one"))
print(etcd.put("python/0", "last", prev_kv=True).prev_kv.value)
print(etcd.delete("python/0", return_response=False), etcd.delete("python/0"))

lease = etcd.lease(60)
etcd.put("python/leased", "1", lease=lease)
print(lease.granted_ttl, 0 < lease.remaining_ttl <= 60, lease.keys)
print([answer.TTL for answer in lease.refresh()])
lease.revoke()
print(etcd.get("python/leased"))

short = etcd.lease(2)
etcd.put("python/short", "1", lease=short)
time.sleep(6)
print(etcd.get("python/short"), short.remaining_ttl)

succeeded, answers = etcd.transaction(
    compare=[etcd.transactions.create("python/1") > 0, etcd.transactions.mod("python/1") > 0],
    success=[etcd.transactions.get("python/1"), etcd.transactions.delete("python/2")],
    failure=[etcd.transactions.put("python/1", "wrong")],
)
print(succeeded, answers[0][0][0], len(answers))

# Waiting for a lock that is held fails inside the client with any current version of tenacity.
held = etcd.lock("python/lock", ttl=10)
other = etcd3.client().lock("python/lock", ttl=10)
print(held.acquire(), held.is_acquired(), other.is_acquired(), held.release())
print(other.acquire(), held.is_acquired(), other.release(), other.release())

seen, cancel = etcd.watch_prefix("python/watched")
for number in range(3):
    etcd.put(f"python/watched{number}", str(number))
etcd.delete("python/watched1")
for _, event in zip(range(4), seen):
    print(type(event).__name__, event.key, event.value)
cancel()

print(len(list(etcd.members)) > 0, etcd.status().version != "", list(etcd.list_alarms()))
revision = etcd.put("python/old", "2").header.revision
etcd.compact(revision)
try:
    etcd.compact(revision)
    print("compacted twice")
except Exception as error:  # what it is called is what is compared
    print(type(error).__name__)
