// What the Java client jetcd offers, said out loud: what is printed is compared.

import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Election;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.KeyValue;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.auth.Permission;
import io.etcd.jetcd.election.LeaderKey;
import io.etcd.jetcd.election.LeaderResponse;
import io.etcd.jetcd.kv.TxnResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.watch.WatchEvent;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.stream.Collectors;

public final class Calls {
  private static final String ENDPOINT = "http://127.0.0.1:2379";
  private static final long SECONDS = 20;
  private static final GetOption PREFIX = GetOption.builder().isPrefix(true).build();

  private static ByteSequence bytes(String text) {
    return ByteSequence.from(text, StandardCharsets.UTF_8);
  }

  private static String text(ByteSequence bytes) {
    return bytes.toString(StandardCharsets.UTF_8);
  }

  private static String shown(KeyValue kv) {
    return text(kv.getKey()) + "=" + text(kv.getValue()) + " v" + kv.getVersion();
  }

  private static String all(List<KeyValue> kvs) {
    return kvs.stream().map(Calls::shown).collect(Collectors.joining(", "));
  }

  private static void say(Object... what) {
    System.out.println(
        java.util.Arrays.stream(what).map(String::valueOf).collect(Collectors.joining(" ")));
  }

  private static <T> T done(CompletableFuture<T> call) throws Exception {
    return call.get(SECONDS, TimeUnit.SECONDS);
  }

  /** The words of a refusal. */
  private static String refusal(CompletableFuture<?> call) throws Exception {
    try {
      done(call);
      return "no refusal";
    } catch (ExecutionException error) {
      return error.getCause().getClass().getSimpleName() + ": " + error.getCause().getMessage();
    }
  }

  public static void main(String[] arguments) throws Exception {
    try (Client client = Client.builder().endpoints(ENDPOINT).build()) {
      KV kv = client.getKVClient();
      done(kv.delete(bytes("java/"), DeleteOption.builder().isPrefix(true).build()));
      keys(kv);
      transactions(kv);
      leases(client);
      watches(client);
      locks(client);
      elections(client);
      operators(client);
      users(client);
    }
    System.exit(0);
  }

  private static void keys(KV kv) throws Exception {
    // The beginning of the client's own description.
    done(kv.put(bytes("test_key"), bytes("test_value")));
    say(all(done(kv.get(bytes("test_key"))).getKvs()));
    say(done(kv.delete(bytes("test_key"))).getDeleted());
    for (int number = 0; number < 5; number++) {
      done(kv.put(bytes("java/" + number), bytes("" + number)));
    }
    say(all(done(kv.get(bytes("java/"), PREFIX)).getKvs()));
    var sorted = GetOption.builder().isPrefix(true).withLimit(2)
        .withSortField(GetOption.SortTarget.VALUE).withSortOrder(GetOption.SortOrder.DESCEND);
    var some = done(kv.get(bytes("java/"), sorted.build()));
    say(all(some.getKvs()), some.isMore(), some.getCount());
    var names = GetOption.builder().withRange(bytes("java/3")).withKeysOnly(true).build();
    say(all(done(kv.get(bytes("java/1"), names)).getKvs()));
    var previous = PutOption.builder().withPrevKV().build();
    var put = done(kv.put(bytes("java/0"), bytes("zero"), previous));
    say(shown(put.getPrevKv()));
    long now = put.getHeader().getRevision();
    var before = GetOption.builder().withRevision(now - 1).build();
    say(all(done(kv.get(bytes("java/0"), before)).getKvs()));
    var later = GetOption.builder().withRevision(now + 1_000_000).build();
    say(refusal(kv.get(bytes("java/0"), later)));
    say(refusal(kv.put(bytes(""), bytes("x"))));
    var gone = DeleteOption.builder().withRange(bytes("java/3")).withPrevKV(true).build();
    var deleted = done(kv.delete(bytes("java/1"), gone));
    say(deleted.getDeleted(), all(deleted.getPrevKvs()));
    done(kv.compact(now));
    say(refusal(kv.compact(now)));
    say(refusal(kv.get(bytes("java/0"), before)));
  }

  private static void transactions(KV kv) throws Exception {
    ByteSequence key = bytes("java/txn");
    for (int round = 0; round < 2; round++) {
      TxnResponse answer = done(kv.txn()
          .If(new Cmp(key, Cmp.Op.EQUAL, CmpTarget.version(0)))
          .Then(Op.put(key, bytes("1"), PutOption.DEFAULT))
          .Else(Op.get(key, GetOption.DEFAULT), Op.delete(bytes("java/3"), DeleteOption.DEFAULT))
          .commit());
      say(answer.isSucceeded(), answer.getPutResponses().size(),
          answer.getGetResponses().stream().map(got -> all(got.getKvs())).toList(),
          answer.getDeleteResponses().stream().map(got -> got.getDeleted()).toList());
    }
    say(refusal(kv.txn().Then(
        Op.put(key, bytes("1"), PutOption.DEFAULT),
        Op.put(key, bytes("2"), PutOption.DEFAULT)).commit()));
  }

  private static void leases(Client client) throws Exception {
    KV kv = client.getKVClient();
    long lease = done(client.getLeaseClient().grant(60)).getID();
    ByteSequence key = bytes("java/leased");
    done(kv.put(key, bytes("1"), PutOption.builder().withLeaseId(lease).build()));
    var left = done(client.getLeaseClient()
        .timeToLive(lease, LeaseOption.builder().withAttachedKeys().build()));
    var names = left.getKeys().stream().map(Calls::text).toList();
    say(left.getGrantedTTL(), left.getTTL() > 50, names);
    say(done(client.getLeaseClient().keepAliveOnce(lease)).getTTL());
    done(client.getLeaseClient().revoke(lease));
    say(done(kv.get(key)).getCount());
    say(refusal(client.getLeaseClient().revoke(lease)));
    say(refusal(kv.put(key, bytes("1"), PutOption.builder().withLeaseId(4711).build())));
  }

  private static String shown(WatchEvent event) {
    return event.getEventType() + " " + shown(event.getKeyValue()) + " was "
        + (event.getPrevKV() == null ? "nothing" : shown(event.getPrevKV()));
  }

  private static void watches(Client client) throws Exception {
    KV kv = client.getKVClient();
    BlockingQueue<String> seen = new ArrayBlockingQueue<>(100);
    long from = done(kv.put(bytes("java/before"), bytes("1"))).getHeader().getRevision();
    var option = WatchOption.builder().isPrefix(true).withPrevKV(true).withRevision(from + 1);
    ByteSequence key = bytes("java/watched");
    try (Watch.Watcher watcher = client.getWatchClient().watch(key, option.build(),
        answer -> answer.getEvents().forEach(event -> seen.add(shown(event))))) {
      for (int number = 0; number < 3; number++) {
        done(kv.put(bytes("java/watched" + number), bytes("" + number)));
      }
      done(kv.put(bytes("java/watched0"), bytes("again")));
      done(kv.delete(bytes("java/watched1")));
      for (int number = 0; number < 5; number++) {
        say(seen.poll(SECONDS, TimeUnit.SECONDS));
      }
    }
    var compacted = WatchOption.builder().withRevision(1).build();
    try (Watch.Watcher watcher = client.getWatchClient().watch(key, compacted,
        answer -> {}, error -> seen.add(error.getClass().getSimpleName()))) {
      say(seen.poll(SECONDS, TimeUnit.SECONDS));
    }
  }

  private static void locks(Client client) throws Exception {
    ByteSequence name = bytes("java/lock");
    long one = done(client.getLeaseClient().grant(60)).getID();
    long two = done(client.getLeaseClient().grant(60)).getID();
    ByteSequence held = done(client.getLockClient().lock(name, one)).getKey();
    say(text(held).equals("java/lock/" + Long.toHexString(one)));
    var waits = client.getLockClient().lock(name, two);
    try {
      waits.get(300, TimeUnit.MILLISECONDS);
      say("two hold it");
    } catch (TimeoutException expected) {
      say("it is held");
    }
    done(client.getLockClient().unlock(held));
    ByteSequence next = done(waits).getKey();
    say(text(next).equals("java/lock/" + Long.toHexString(two)));
    done(client.getLeaseClient().revoke(one));
    done(client.getLeaseClient().revoke(two));
    say(refusal(client.getLockClient().lock(name, 4711)));
  }

  private static void elections(Client client) throws Exception {
    ByteSequence name = bytes("java/office");
    Election election = client.getElectionClient();
    say(refusal(election.leader(name)));
    long lease = done(client.getLeaseClient().grant(60)).getID();
    LeaderKey leader = done(election.campaign(name, lease, bytes("me"))).getLeader();
    BlockingQueue<String> seen = new ArrayBlockingQueue<>(100);
    election.observe(name, new Election.Listener() {
      @Override
      public void onNext(LeaderResponse answer) {
        seen.add(text(answer.getKv().getValue()));
      }

      @Override
      public void onError(Throwable error) {
        seen.add(error.toString());
      }

      @Override
      public void onCompleted() {}
    });
    say(seen.poll(SECONDS, TimeUnit.SECONDS));
    done(election.proclaim(leader, bytes("still me")));
    say(seen.poll(SECONDS, TimeUnit.SECONDS));
    say(text(done(election.leader(name)).getKv().getValue()));
    done(election.resign(leader));
    say(refusal(election.leader(name)));
    done(client.getLeaseClient().revoke(lease));
  }

  private static void operators(Client client) throws Exception {
    var members = done(client.getClusterClient().listMember()).getMembers();
    say(members.stream().anyMatch(one -> one.getClientURIs().stream()
        .anyMatch(uri -> uri.toString().equals(ENDPOINT))));
    var status = done(client.getMaintenanceClient().statusMember(ENDPOINT));
    say(status.getDbSize() > 0, status.getLeader() != 0, status.isLearner());
    say(done(client.getMaintenanceClient().hashKV(ENDPOINT, 0)).getHash() != 0);
    say(done(client.getMaintenanceClient().listAlarms()).getAlarms().size());
    done(client.getMaintenanceClient().defragmentMember(ENDPOINT));
    var snapshot = new ByteArrayOutputStream();
    say(done(client.getMaintenanceClient().snapshot(snapshot)) > 0, snapshot.size() % 512);
  }

  private static void users(Client client) throws Exception {
    var auth = client.getAuthClient();
    ByteSequence root = bytes("root");
    ByteSequence reader = bytes("reader");
    ByteSequence anna = bytes("anna");
    ByteSequence word = bytes("word");
    done(auth.userAdd(root, word));
    done(auth.roleAdd(root));
    done(auth.userGrantRole(root, root));
    done(auth.userAdd(anna, word));
    done(auth.roleAdd(reader));
    done(auth.roleGrantPermission(
        reader, bytes("java/"), bytes("java0"), Permission.Type.READ));
    done(auth.userGrantRole(anna, reader));
    say(done(auth.roleGet(reader)).getPermissions().size(), done(auth.userList()).getUsers());
    say(refusal(auth.userAdd(anna, word)));
    done(auth.authEnable());
    try (Client as = Client.builder().endpoints(ENDPOINT).user(anna).password(word).build()) {
      say(done(as.getKVClient().get(bytes("java/before"))).getCount());
      say(refusal(as.getKVClient().put(bytes("java/before"), word)));
      say(refusal(as.getAuthClient().userList()));
    }
    try (Client as = Client.builder().endpoints(ENDPOINT).user(root).password(word).build()) {
      done(as.getKVClient().put(bytes("java/before"), word));
      done(as.getAuthClient().authDisable());
    }
    say(refusal(auth.userDelete(root)), refusal(auth.userDelete(anna)));
    say(refusal(auth.roleDelete(root)), refusal(auth.roleDelete(reader)));
  }
}
