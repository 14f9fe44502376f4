package com.github.tensorferry.flink.internal;

import static com.github.tensorferry.flink.internal.FakeFerry.until;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.github.tensorferry.flink.Failure;
import com.github.tensorferry.flink.SidecarException;
import com.github.tensorferry.flink.Signature;
import java.io.IOException;
import java.net.ServerSocket;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.security.KeyStore;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The client, against a ferry that does what the test says. */
@Timeout(60)
class FerryClientTest {
  private final Heard heard = new Heard();
  private final FerryClient.Config config = new FerryClient.Config();
  private FakeFerry ferry;
  private FerryClient client;

  /** What a listener has heard. */
  static final class Heard implements FerryClient.Listener {
    final Map<Long, Object> answers = new ConcurrentHashMap<>();
    final AtomicInteger twice = new AtomicInteger();
    volatile SidecarException failed;

    @Override
    public void answer(long id, byte[] row, Failure failure) {
      Object a = failure != null ? failure
          : ByteBuffer.wrap(row).order(ByteOrder.LITTLE_ENDIAN).getLong();
      if (answers.put(id, a) != null) {
        twice.incrementAndGet();
      }
    }

    @Override
    public void changed() {}

    @Override
    public void failed(SidecarException cause) {
      failed = cause;
    }
  }

  @BeforeEach
  void start() throws IOException {
    ferry = new FakeFerry();
    config.endpoint = ferry.endpoint();
    config.hello = "{}".getBytes();
  }

  @AfterEach
  void stop() throws Exception {
    if (client != null) {
      client.close();
    }
    ferry.close();
    until("no thread", () -> Thread.getAllStackTraces().keySet().stream()
        .noneMatch(t -> t.getName().startsWith("tensorferry")));
    assertEquals(0, heard.twice.get());
  }

  private void open() throws Exception {
    client = new FerryClient(config, heard);
    client.open();
  }

  private void call(long... ids) {
    for (long id : ids) {
      byte[] frame = new byte[Frames.CALL_HEADER + 8];
      ByteBuffer.wrap(frame).order(ByteOrder.LITTLE_ENDIAN).putLong(Frames.CALL_HEADER, id);
      client.call(id, frame);
    }
  }

  private void answered(int n) throws Exception {
    until(n + " answers", () -> heard.answers.size() >= n);
    heard.answers.forEach((id, a) -> assertEquals(10 * id, a));
    assertEquals(n, heard.answers.size());
  }

  @Test
  void callsAreAnswered() throws Exception {
    client = new FerryClient(config, heard);
    Signature s = client.open();
    assertEquals("inputs [x INT64 [1]], outputs [y INT64 [1]]", s.toString());
    for (long id = 1; id <= 5000; id++) {
      call(id);
    }
    answered(5000);
    client.close();
    assertTrue(ferry.connection(0).ended, "END was said");
    until("closed", () -> ferry.open() == 0);
  }

  @Test
  void unixSocket() throws Exception {
    java.nio.file.Path dir = java.nio.file.Files.createTempDirectory("ferry");
    java.nio.file.Path path = dir.resolve("f.sock");
    java.nio.channels.ServerSocketChannel unix =
        java.nio.channels.ServerSocketChannel.open(java.net.StandardProtocolFamily.UNIX);
    unix.bind(java.net.UnixDomainSocketAddress.of(path));
    Thread relay = new Thread(() -> relay(unix), "relay");
    relay.setDaemon(true);
    relay.start();
    config.endpoint = "unix://" + path;
    open();
    for (long id = 1; id <= 1000; id++) {
      call(id);
    }
    answered(1000);
    client.close();
    unix.close();
    java.nio.file.Files.delete(path);
    java.nio.file.Files.delete(dir);
  }

  @Test
  void tls() throws Exception {
    java.nio.file.Path store = java.nio.file.Files.createTempDirectory("ferry").resolve("s.p12");
    Process p = new ProcessBuilder(System.getProperty("java.home") + "/bin/keytool", "-genkeypair",
        "-keyalg", "EC", "-dname", "CN=ferry", "-ext", "SAN=IP:127.0.0.1", "-keystore",
        store.toString(), "-storepass", "secret", "-alias", "ferry").inheritIO().start();
    assertEquals(0, p.waitFor());
    KeyStore keys = KeyStore.getInstance(store.toFile(), "secret".toCharArray());
    KeyManagerFactory own = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
    own.init(keys, "secret".toCharArray());
    KeyStore authorities = KeyStore.getInstance(KeyStore.getDefaultType());
    authorities.load(null, null);
    authorities.setCertificateEntry("ferry", keys.getCertificate("ferry"));
    TrustManagerFactory trust =
        TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(authorities);
    SSLContext context = SSLContext.getInstance("TLS");
    context.init(own.getKeyManagers(), trust.getTrustManagers(), null);
    ferry.close();
    ferry = new FakeFerry(context.getServerSocketFactory());
    config.endpoint = ferry.endpoint();
    config.holdMillis = 500;
    // Without its authority, and under another name, the ferry is not the one that is meant.
    config.tls = SSLContext.getDefault();
    until("refusal", () -> refusal().contains("PKIX"));
    config.tls = context;
    config.endpoint = ferry.endpoint().replace("127.0.0.1", "localhost");
    until("refusal", () -> refusal().contains("No name matching localhost"));
    config.endpoint = ferry.endpoint();
    config.holdMillis = 60_000;
    open();
    for (long id = 1; id <= 1000; id++) {
      call(id);
    }
    answered(1000);
  }

  private String refusal() {
    try (FerryClient c = new FerryClient(config, heard)) {
      return assertThrows(SidecarException.class, c::open).getMessage();
    }
  }

  /** Carries bytes between a Unix socket and the ferry. */
  private void relay(java.nio.channels.ServerSocketChannel unix) {
    try {
      java.nio.channels.SocketChannel a = unix.accept();
      java.nio.channels.SocketChannel b = java.nio.channels.SocketChannel.open(
          new java.net.InetSocketAddress("127.0.0.1", Integer.parseInt(
              ferry.endpoint().substring(ferry.endpoint().indexOf(':') + 1))));
      Thread back = new Thread(() -> copy(b, a), "relay back");
      back.setDaemon(true);
      back.start();
      copy(a, b);
    } catch (IOException e) {
      // The test is over.
    }
  }

  private static void copy(
      java.nio.channels.SocketChannel from, java.nio.channels.SocketChannel to) {
    ByteBuffer buffer = ByteBuffer.allocate(1 << 16);
    try {
      while (from.read(buffer) >= 0) {
        buffer.flip();
        while (buffer.hasRemaining()) {
          to.write(buffer);
        }
        buffer.clear();
      }
      to.close();
      from.close();
    } catch (IOException e) {
      // The test is over.
    }
  }

  @Test
  void endpointsOfNoKnownForm() {
    for (String bad : new String[] {"", "unix://relative", "host", "host:", "host:port", ":80",
        "http://host:80", "a:b:80", "[::1]", "grpc:x"}) {
      config.endpoint = bad;
      String message = assertThrows(IllegalArgumentException.class,
          () -> new FerryClient(config, heard), bad).getMessage();
      assertTrue(message.contains("write unix:///"), message);
    }
    for (String good : new String[] {"unix:///a/b.sock", "host:1", "127.0.0.1:8080", "[::1]:80"}) {
      config.endpoint = good;
      new FerryClient(config, heard);
    }
  }

  @Test
  void creditInRowsAndBytes() throws Exception {
    ferry.welcome = FakeFerry.welcome(3, 1 << 20, 1 << 20, 1000, 60_000, "x", "y");
    ferry.script = (c, call) -> {};
    open();
    call(1, 2, 3, 4, 5, 6, 7, 8);
    ferry.awaitCalls(3);
    FakeFerry.Connection c = ferry.connection(0);
    // A PING that is answered shows that nothing is on the way behind the calls.
    quiet(c);
    assertEquals(3, ferry.calls.size());
    ferry.calls.get(1).answer();
    ferry.awaitCalls(4);
    quiet(c);
    assertEquals(4, ferry.calls.size());
    // Two calls of 25 bytes each; three are on the way, so none follows before there is one.
    c.send(Frames.CREDIT, 0, FakeFerry.credit(100, 50));
    ferry.calls.get(0).answer();
    quiet(c);
    assertEquals(4, ferry.calls.size());
    ferry.calls.get(2).answer();
    ferry.awaitCalls(5);
    quiet(c);
    assertEquals(5, ferry.calls.size());
    // One call alone may have more bytes than the credit.
    c.send(Frames.CREDIT, 0, FakeFerry.credit(100, 1));
    ferry.script = (x, call) -> call.answer();
    ferry.answerAll();
    answered(8);
  }

  private static void quiet(FakeFerry.Connection c) throws Exception {
    int before = c.pongs;
    c.send(Frames.PING, 9);
    until("PONG", () -> c.pongs > before);
  }

  @Test
  void lostConnectionsAreReplacedAndCallsSentAgain() throws Exception {
    ferry.script = (c, call) -> {
      // Of each connection but the fourth one a few answers come, and then it breaks.
      if (ferry.connections.size() < 4 && call.id % 7 == ferry.connections.size()) {
        c.close();
      } else {
        call.answer();
      }
    };
    open();
    for (long id = 1; id <= 500; id++) {
      call(id);
    }
    answered(500);
    assertTrue(ferry.connections.size() >= 4);
    List<Long> last = new ArrayList<>();
    ferry.calls.stream().filter(c -> c.connection == ferry.connections.get(3))
        .forEach(c -> last.add(c.id));
    List<Long> sorted = new ArrayList<>(last);
    sorted.sort(null);
    assertEquals(sorted, last, "calls are sent again in their order");
  }

  @Test
  void brokenForAWhileIsTriedAgain() throws Exception {
    ferry.hello = (c, call) -> {
      if (ferry.connections.size() < 3) {
        c.send(Frames.BROKEN, 0, FakeFerry.failure(0, 3, "RESOURCE_EXHAUSTED", "full"));
        c.close();
      } else {
        c.welcome();
      }
    };
    open();
    assertEquals(3, ferry.connections.size());
  }

  @Test
  void brokenForGoodEnds() throws Exception {
    ferry.hello = (c, call) ->
        c.send(Frames.BROKEN, 0, FakeFerry.failure(0, 5, "PERMISSION_DENIED", "not allowed"));
    SidecarException e = assertThrows(SidecarException.class, this::open);
    assertEquals("permanent", e.failure.failureClass);
    assertEquals("PERMISSION_DENIED", e.failure.code);
    assertTrue(e.getMessage().contains("not allowed"), e.getMessage());
    assertEquals(1, ferry.connections.size());
  }

  @Test
  void failuresHaveWhatTheFerrySays() throws Exception {
    ferry.script = (c, call) -> c.fail(call.id, 2, 200, "INTERNAL", "no luck");
    open();
    call(5);
    until("answer", () -> heard.answers.size() == 1);
    Failure f = (Failure) heard.answers.get(5L);
    assertEquals("backend", f.failureClass, "a class that is not known");
    assertEquals(2, f.action);
    assertEquals("no luck (class backend, code INTERNAL, reason R, model tenfold, "
        + "endpoint server:1, request r-7)", f.toString());
  }

  @Test
  void cancel() throws Exception {
    ferry.welcome = FakeFerry.welcome(2, 1 << 20, 1 << 20, 1000, 60_000, "x", "y");
    ferry.script = (c, call) -> {};
    open();
    call(1, 2, 3, 4);
    ferry.awaitCalls(2);
    client.cancel(3);
    client.cancel(1);
    ferry.awaitCalls(3);
    assertEquals(List.of(1L), ferry.connection(0).cancelled);
    assertEquals(4, ferry.calls.get(2).id, "3 was never sent");
    ferry.calls.get(1).answer();
    ferry.calls.get(2).answer();
    answered(2);
  }

  @Test
  void cancelMeetsTheAnswer() throws Exception {
    ferry.script = (c, call) -> {};
    open();
    call(1, 2);
    ferry.awaitCalls(2);
    FakeFerry.Connection c = ferry.connection(0);
    c.answered.add(1L);
    client.cancel(1);
    until("CANCEL", () -> c.cancelled.contains(1L));
    c.raw(Frames.frame(Frames.RESULT, 1, FakeFerry.longs(10)));
    ferry.calls.get(1).answer();
    answered(1);
    call(3);
    ferry.awaitCalls(3);
    ferry.calls.get(2).answer();
    answered(2);
    assertEquals(1, ferry.connections.size());
  }

  @Test
  void drainMovesNewCallsToAnotherConnection() throws Exception {
    ferry.script = (c, call) -> {};
    open();
    call(1, 2);
    ferry.awaitCalls(2);
    FakeFerry.Connection old = ferry.connection(0);
    old.send(Frames.DRAIN, 0);
    ferry.connection(1);
    call(3);
    ferry.awaitCalls(3);
    assertEquals(ferry.connection(1), ferry.calls.get(2).connection);
    assertFalse(old.ended);
    ferry.calls.get(2).answer();
    ferry.calls.get(0).answer();
    ferry.calls.get(1).answer();
    answered(3);
    until("END", () -> old.ended && old.gone);
    assertFalse(client.isAway());
  }

  @Test
  void drainThatOutlastsTheGrace() throws Exception {
    ferry.script = (c, call) -> {};
    open();
    call(1, 2);
    ferry.awaitCalls(2);
    ferry.connection(0).send(Frames.DRAIN, 0);
    ferry.connection(1);
    ferry.connection(0).close();
    ferry.awaitCalls(4);
    ferry.calls.get(2).answer();
    ferry.calls.get(3).answer();
    answered(2);
  }

  @Test
  void heldAndResumed() throws Exception {
    ferry.hello = (c, call) -> c.send(Frames.HELD, 0, FakeFerry.text("no server"));
    // The hold is short, and a ferry that waits for its server is no ferry that is away.
    config.holdMillis = 300;
    config.pingMillis = 40;
    Thread opens = new Thread(() -> {
      try {
        open();
      } catch (Exception e) {
        // The test sees that it is not open.
      }
    });
    opens.start();
    FakeFerry.Connection c = ferry.connection(0);
    until("held", () -> client != null && client.isAway());
    until("twice the hold is over", () -> c.pings > 15);
    assertEquals(null, heard.failed);
    c.welcome();
    c.send(Frames.RESUMED, 0);
    opens.join(30_000);
    until("not away", () -> !client.isAway());
    call(1);
    answered(1);
    c.send(Frames.HELD, 0, FakeFerry.text("no server"));
    until("away", client::isAway);
    c.send(Frames.RESUMED, 0);
    until("not away", () -> !client.isAway());
    assertEquals(1, ferry.connections.size());
  }

  @Test
  void ferryIsAwayForAWhile() throws Exception {
    open();
    call(1);
    answered(1);
    ferry.stop();
    call(2, 3);
    until("away", client::isAway);
    ferry.start();
    answered(3);
    assertEquals(null, heard.failed);
  }

  @Test
  void ferryIsAwayForLongerThanTheHold() throws Exception {
    config.holdMillis = 200;
    open();
    call(1);
    answered(1);
    ferry.stop();
    call(2);
    until("failure", () -> heard.failed != null);
    Failure f = heard.failed.failure;
    assertEquals("transport", f.failureClass);
    assertTrue(f.text.startsWith("no ferry at " + ferry.endpoint() + " for "), f.text);
    assertTrue(f.text.contains("see that it runs"), f.text);
    assertThrows(SidecarException.class, client::open);
  }

  @Test
  void ferryThatWasNeverThere() throws Exception {
    config.holdMillis = 200;
    ferry.stop();
    SidecarException e = assertThrows(SidecarException.class, this::open);
    assertEquals("transport", e.failure.failureClass);
  }

  @Test
  void ferryThatBreaksAtEachCallIsGivenUp() throws Exception {
    config.holdMillis = 300;
    ferry.script = (c, call) -> c.close();
    open();
    call(1);
    until("failure", () -> heard.failed != null);
    assertTrue(ferry.connections.size() > 2);
  }

  @Test
  void silentFerryIsPingedAndGivenUp() throws Exception {
    config.pingMillis = 50;
    config.silenceMillis = 400;
    ferry.deaf = true;
    open();
    FakeFerry.Connection first = ferry.connection(0);
    until("PING", () -> first.pings > 0);
    until("given up", () -> first.gone);
    ferry.deaf = false;
    call(1);
    answered(1);
    FakeFerry.Connection now = ferry.connections.get(ferry.connections.size() - 1);
    until("PINGs that are answered", () -> now.pings > 20);
    assertFalse(now.gone);
  }

  @Test
  void forgottenCallIsCalledOnAnotherConnection() throws Exception {
    ferry.welcome = FakeFerry.welcome(1000, 1 << 20, 1 << 20, 100, 100, "x", "y");
    ferry.script = (c, call) -> {
      if (c != ferry.connections.get(0)) {
        call.answer();
      }
    };
    open();
    call(1);
    answered(1);
    assertEquals(2, ferry.connections.size());
  }

  @Test
  void forgottenCallWaitsWhileItIsHeld() throws Exception {
    ferry.welcome = FakeFerry.welcome(1000, 1 << 20, 1 << 20, 50, 50, "x", "y");
    ferry.script = (c, call) -> c.send(Frames.HELD, 0, FakeFerry.text("full"));
    config.pingMillis = 40;
    open();
    call(1);
    until("held", client::isAway);
    FakeFerry.Connection c = ferry.connection(0);
    until("more than timeout and hold", () -> c.pings > 8);
    assertEquals(1, ferry.connections.size());
    ferry.connection(0).send(Frames.RESUMED, 0);
    ferry.answerAll();
    answered(1);
  }

  @Test
  void rowThatIsLongerThanTheFerryTakes() throws Exception {
    ferry.welcome = FakeFerry.welcome(1000, 1 << 20, 30, 1000, 1000, "x", "y");
    open();
    client.call(1, new byte[31]);
    until("answer", () -> heard.answers.size() == 1);
    assertEquals("record", ((Failure) heard.answers.get(1L)).failureClass);
    heard.answers.clear();
    call(2);
    answered(1);
  }

  @Test
  void modelWithOtherTensorsEnds() throws Exception {
    open();
    ferry.welcome = FakeFerry.welcome(1000, 1 << 20, 1 << 20, 1000, 1000, "x", "z");
    ferry.connection(0).close();
    until("failure", () -> heard.failed != null);
    assertEquals("permanent", heard.failed.failure.failureClass);
    assertTrue(heard.failed.getMessage().contains("z INT64"), heard.failed.getMessage());
  }

  @Test
  void hostileFrames() throws Exception {
    byte[] unknownId = Frames.frame(Frames.RESULT, 77);
    byte[][] hostile = {
        {8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
        {-1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0},
        {-1, -1, -1, 127, 0, 0, 0, 0, 0, 0, 0, 0, 17},
        Frames.frame(99, 0), Frames.frame(Frames.CALL, 1, (byte) 0), unknownId,
        Frames.frame(Frames.CANCELLED, 6), Frames.frame(Frames.FAILURE, 7, (byte) 1),
        Frames.frame(Frames.WELCOME, 0, ferry.welcome), Frames.frame(Frames.STATS, 0, (byte) 9),
        Frames.frame(Frames.HELD, 0, new byte[] {-1, -1, -1, 127}),
        Frames.frame(Frames.HELD, 0, new byte[] {1, 0, 0, 0, -1}),
        Frames.frame(Frames.CREDIT, 0), Frames.frame(Frames.DRAIN, 0, (byte) 1),
        Frames.frame(Frames.END, 0), "HTTP/1.1 400 Bad Request\r\n\r\n".getBytes(),
    };
    // Each is the answer to a call, which another connection then answers.
    ferry.script = (c, call) -> {
      if (ferry.calls.stream().filter(o -> o.id == call.id).count() == 1) {
        c.raw(hostile[(int) call.id]);
      } else {
        call.answer();
      }
    };
    open();
    for (int n = 0; n < hostile.length; n++) {
      call(n);
      answered(n + 1);
    }
    assertEquals(hostile.length + 1, ferry.connections.size());
  }

  @Test
  void noFerryButAnotherServer() throws Exception {
    ferry.stop();
    try (ServerSocket http = new ServerSocket(0)) {
      config.endpoint = "127.0.0.1:" + http.getLocalPort();
      config.holdMillis = 500;
      Thread t = new Thread(() -> {
        try {
          while (true) {
            http.accept().getOutputStream().write("HTTP/1.1 400 Bad\r\n\r\n".getBytes());
          }
        } catch (IOException e) {
          // The test is over.
        }
      });
      t.setDaemon(true);
      t.start();
      SidecarException e = assertThrows(SidecarException.class, this::open);
      assertTrue(e.getMessage().contains("breaks the protocol"), e.getMessage());
    }
  }

  @Test
  void statsAreAddedUp() throws Exception {
    open();
    FakeFerry.Connection c = ferry.connection(0);
    c.send(Frames.STATS, 0, stats(3, 7, 4, 2, 5, 10, 6, 80, 7, 20_000, 9, 500_000, 10, 100, 99, 1));
    until("stats", () -> client.stats.held == 7);
    assertEquals(2, client.stats.retries);
    assertEquals(8.0, client.stats.batchRows);
    assertEquals(2.0, client.stats.callMillis);
    assertEquals(3.0, client.stats.queueMillis);
    c.send(Frames.STATS, 0, stats(3, 0, 4, 5, 5, 10, 6, 80, 7, 20_000, 9, 500_000, 10, 100));
    until("stats", () -> client.stats.held == 0);
    assertEquals(5, client.stats.retries);
    c.close();
    ferry.connection(1).send(Frames.STATS, 0, stats(4, 1, 5, 1, 6, 4, 7, 1000));
    until("stats", () -> client.stats.retries == 6);
    assertEquals(4.0, client.stats.batchRows);
  }

  private static byte[] stats(long... pairs) {
    ByteBuffer b = ByteBuffer.allocate(2 + 5 * pairs.length).order(ByteOrder.LITTLE_ENDIAN);
    b.putShort((short) (pairs.length / 2));
    for (int i = 0; i < pairs.length; i += 2) {
      b.putShort((short) pairs[i]).putLong(pairs[i + 1]);
    }
    return b.array();
  }

  @Test
  void closeWhileNothingGoesOn() throws Exception {
    // A connect that waits for HELLO's answer, and one with calls that nobody answers.
    ferry.hello = (c, call) -> {};
    Thread opens = new Thread(() -> {
      try {
        open();
      } catch (Exception e) {
        // It was interrupted.
      }
    });
    opens.start();
    ferry.connection(0);
    opens.interrupt();
    opens.join(30_000);
    client.close();
    until("closed", () -> ferry.open() == 0);
    ferry.hello = (c, call) -> c.welcome();
    ferry.script = (c, call) -> {};
    open();
    call(1, 2, 3);
    ferry.awaitCalls(3);
    client.close();
    until("closed", () -> ferry.open() == 0);
    assertFalse(ferry.connection(1).ended);
  }
}
