package com.github.tensorferry.flink.internal;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.github.tensorferry.flink.Failure;
import com.github.tensorferry.flink.Signature.Tensor;
import com.github.tensorferry.flink.internal.Frames.Frame;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;

/** The frames, against the vectors that the ferry has too. */
class FramesTest {
  @Test
  void vectors() throws Exception {
    int seen = 0;
    for (String line : Files.readAllLines(Paths.get("../../ferry/testdata/vectors.txt"))) {
      if (line.isEmpty() || line.startsWith("#")) {
        continue;
      }
      String[] parts = line.split(" ", 2);
      String got;
      byte[] bytes = hex(parts[0]);
      try {
        ByteArrayInputStream in = new ByteArrayInputStream(bytes);
        got = describe(Frames.read(in, 1 << 20));
        assertEquals(0, in.available(), line);
      } catch (IOException e) {
        got = "!";
      }
      assertEquals(parts[1], got, line);
      seen++;
    }
    assertTrue(seen > 20, "vectors: " + seen);
  }

  @Test
  void whatTheClientSends() throws Exception {
    byte[] call = new byte[Frames.CALL_HEADER + 4];
    call[Frames.CALL_HEADER + 3] = 0x3f;
    Frames.callHeader(call, 7);
    assertEquals("CALL id=7 key=\"\" row=0000003f", described(call));
    assertEquals("CANCEL id=7", described(Frames.frame(Frames.CANCEL, 7)));
    assertEquals("END", described(Frames.frame(Frames.END, 0)));
    assertEquals("PONG id=3", described(Frames.frame(Frames.PONG, 3)));
  }

  @Test
  void aLengthAloneCostsNoMemory() {
    ByteBuffer head = ByteBuffer.allocate(13).order(ByteOrder.LITTLE_ENDIAN).putInt(200 << 20);
    // 200 MiB, of which nothing comes. With that much allocated at once this would not do.
    for (int i = 0; i < 2000; i++) {
      assertThrows(IOException.class,
          () -> Frames.read(new ByteArrayInputStream(head.array()), 256 << 20));
    }
    assertThrows(Frames.BadFrame.class,
        () -> Frames.read(new ByteArrayInputStream(head.array()), 100 << 20));
    head.putInt(0, -1);
    assertThrows(Frames.BadFrame.class,
        () -> Frames.read(new ByteArrayInputStream(head.array()), Integer.MAX_VALUE));
  }

  private static String described(byte[] frame) throws IOException {
    return describe(Frames.read(new ByteArrayInputStream(frame), 1 << 20));
  }

  private static String describe(Frame f) throws IOException {
    switch (f.kind) {
      case Frames.HELLO:
        return "HELLO " + new String(f.payload, StandardCharsets.UTF_8);
      case Frames.CALL:
        return f.read(in -> {
          String key = Frames.string(in);
          byte[] row = new byte[in.remaining()];
          in.get(row);
          return "CALL" + id(f) + " key=\"" + key + "\" row=" + hex(row);
        });
      case Frames.CANCEL:
        return "CANCEL" + id(f) + none(f);
      case Frames.END:
        return "END" + none(f);
      case Frames.PING:
        return "PING" + id(f) + none(f);
      case Frames.PONG:
        return "PONG" + id(f) + none(f);
      case Frames.WELCOME:
        Frames.Welcome w = f.read(Frames::welcome);
        return "WELCOME version=" + w.version + " rows=" + w.rows + " bytes=" + w.bytes + " frame="
            + w.frame + " timeout=" + w.timeoutMillis + " hold=" + w.holdMillis + " model=\""
            + w.signature.model + "\" modelversion=\"" + w.signature.modelVersion + "\" inputs="
            + tensors(w.signature.inputs) + " outputs=" + tensors(w.signature.outputs);
      case Frames.RESULT:
        return "RESULT" + id(f) + " row=" + hex(f.payload);
      case Frames.FAILURE:
        return "FAILURE" + id(f) + failure(f);
      case Frames.BROKEN:
        return "BROKEN" + failure(f);
      case Frames.HELD:
        return "HELD why=\"" + f.read(Frames::string) + "\"";
      case Frames.RESUMED:
        return "RESUMED" + none(f);
      case Frames.CREDIT:
        Frames.Welcome c = new Frames.Welcome();
        f.read(c::credit);
        return "CREDIT rows=" + c.rows + " bytes=" + c.bytes;
      case Frames.DRAIN:
        return "DRAIN" + none(f);
      case Frames.STATS:
        long[] stats = f.read(Frames::stats);
        ByteBuffer order = ByteBuffer.wrap(f.payload).order(ByteOrder.LITTLE_ENDIAN);
        StringBuilder s = new StringBuilder("STATS");
        for (int left = order.getShort(); left > 0; left--) {
          int number = order.getShort();
          order.getLong();
          s.append(" ").append(number).append("=").append(stats[number]);
        }
        return s.toString();
      case Frames.CANCELLED:
        return "CANCELLED" + id(f) + none(f);
      default:
        return "!";
    }
  }

  private static String none(Frame f) {
    return "";
  }

  private static String id(Frame f) {
    return " id=" + Long.toUnsignedString(f.id);
  }

  private static String failure(Frame frame) throws IOException {
    Failure f = frame.read(Frames::failure);
    List<String> classes =
        Arrays.asList("backend", "record", "timeout", "overload", "transport", "permanent");
    return " action=" + f.action + " class=" + classes.indexOf(f.failureClass) + " attempts="
        + f.attempts + " code=" + quote(f.code) + " reason=" + quote(f.reason) + " text="
        + quote(f.text) + " endpoint=" + quote(f.endpoint) + " request=" + quote(f.request);
  }

  private static String quote(String s) {
    return "\"" + s.replace("\\", "\\\\").replace("\"", "\\\"") + "\"";
  }

  private static String tensors(List<Tensor> tensors) {
    return tensors.stream().map(t -> t.name + " " + t.datatype + " "
        + Arrays.toString(t.shape()).replace(" ", "")).collect(Collectors.joining(", ", "[", "]"));
  }

  private static String hex(byte[] bytes) {
    StringBuilder s = new StringBuilder();
    for (byte b : bytes) {
      s.append(String.format("%02x", b));
    }
    return s.toString();
  }

  private static byte[] hex(String s) {
    byte[] bytes = new byte[s.length() / 2];
    for (int i = 0; i < bytes.length; i++) {
      bytes[i] = (byte) Integer.parseInt(s.substring(2 * i, 2 * i + 2), 16);
    }
    return bytes;
  }
}
