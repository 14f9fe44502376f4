package com.github.tensorferry.flink;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.github.tensorferry.flink.Signature.Tensor;
import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;

/** Rows, as they are written and read. */
class RowTest {
  private static Signature signature(Tensor... tensors) {
    return new Signature("m", "", List.of(tensors), List.of(tensors));
  }

  private static byte[] row(RowWriter w) {
    byte[] row = w.row(0);
    w.clear();
    return row;
  }

  private static void refused(String text, Executable e) {
    String message = assertThrows(IllegalArgumentException.class, e).getMessage();
    assertTrue(message.contains(text), message);
  }

  @Test
  void everyType() {
    Signature s = signature(new Tensor("f", "FP32", 2), new Tensor("d", "FP64", 1),
        new Tensor("l", "INT64", 2, 1), new Tensor("u", "UINT64"), new Tensor("i", "INT32", 1),
        new Tensor("s", "INT16", 1), new Tensor("h", "FP16", 1), new Tensor("b", "UINT8", 3),
        new Tensor("z", "BOOL", 2), new Tensor("t", "BYTES", 2), new Tensor("e", "BYTES", -1));
    RowWriter w = new RowWriter(s);
    for (int round = 0; round < 2; round++) {
      w.input("e").byteArrays(new byte[] {1}, new byte[0], new byte[100]);
      w.input("f").floats(1.5f, -2f);
      w.input("d").doubles(0.1);
      w.input("l").longs(1, Long.MIN_VALUE);
      w.input(3).longs(7);
      w.input("i").ints(-3);
      w.input("s").shorts((short) -4);
      w.input("h").shorts((short) 0x3c00);
      w.input("b").bytes((byte) 1, (byte) 2, (byte) 255);
      w.input("z").booleans(true, false);
      w.input("t").strings("größe", "");
      RowReader r = new RowReader(s);
      r.row(row(w), false);
      assertEquals(FloatBuffer.wrap(new float[] {1.5f, -2f}), r.output("f").floats());
      assertEquals(0.1, r.output("d").doubles().get(0));
      assertEquals(Long.MIN_VALUE, r.output("l").longs().get(1));
      assertEquals(7, r.output(3).longs().get());
      assertEquals(-3, r.output("i").ints().get());
      assertEquals(-4, r.output("s").shorts().get());
      assertEquals(0x3c00, r.output("h").shorts().get());
      assertEquals(3, r.output("b").bytes().remaining());
      assertEquals((byte) 255, r.output("b").bytes().get(2));
      assertArrayEquals(new boolean[] {true, false}, r.output("z").booleans());
      assertArrayEquals(new String[] {"größe", ""}, r.output("t").strings());
      assertEquals(100, r.output("e").byteArrays()[2].length);
      assertArrayEquals(new int[] {3}, r.output("e").shape());
      assertArrayEquals(new int[] {2, 1}, r.output("l").shape());
      assertEquals(8, r.output("f").raw().remaining());
    }
  }

  @Test
  void rowsOfTheProtocol() {
    RowWriter w = new RowWriter(signature(new Tensor("x", "FP32", -1, 2)));
    w.input(0).floats(1, 2);
    assertArrayEquals(new byte[] {1, 0, 0, 0, 0, 0, (byte) 0x80, 0x3f, 0, 0, 0, 0x40}, row(w));
    w = new RowWriter(signature(new Tensor("t", "BYTES", -1, -1)));
    w.input(0).shape(2, 1).strings("a", "bc");
    assertArrayEquals(
        new byte[] {2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 'a', 2, 0, 0, 0, 'b', 'c'}, row(w));
    w = new RowWriter(signature(new Tensor("x", "FP16", 2), new Tensor("y", "INT8", 0)));
    w.input(0).raw(new byte[] {9, 1, 2, 3, 4, 9}, 1, 5);
    w.input(1).bytes();
    assertArrayEquals(new byte[] {1, 2, 3, 4}, row(w));
  }

  @Test
  void wrongWrites() {
    RowWriter w = new RowWriter(signature(new Tensor("x", "FP32", 2), new Tensor("y", "INT64", -1, 3),
        new Tensor("z", "BYTES", -1, -1)));
    refused("x FP32 [2] got 2 elements of another type", () -> w.input(0).doubles(1, 2));
    refused("got 3 elements", () -> w.input("x").floats(1, 2, 3));
    refused("got 4 elements, which its shape", () -> w.input("y").longs(1, 2, 3, 4));
    refused("4 elements of another shape; the shape was said to be [2, 2]",
        () -> w.input("y").shape(2, 2).longs(1, 2, 3, 4));
    refused("said to be [6]", () -> w.input("y").shape(6).longs(1, 2, 3, 4, 5, 6));
    refused("said to be [-1, 3]", () -> w.input("y").shape(-1, 3).longs());
    refused("said to be [2, 3]", () -> w.input("y").shape(2, 3).longs(1, 2, 3));
    refused("0 elements, which", () -> w.input("z").shape(1 << 30, 1 << 30).strings());
    w.clear();
    refused("not the size of each dimension", () -> w.input("z").strings("a"));
    refused("3 bytes", () -> w.input("x").raw(new byte[3], 0, 3));
    refused("1 bytes", () -> w.input("z").raw(new byte[3], 0, 1));
    w.input(0).floats(1, 2);
    refused("a second time", () -> w.input(0).floats(1, 2));
    refused("y INT64 [-1, 3] got 0 elements", () -> w.row(0));
    refused("has no \"nothing\", but [x FP32 [2], y", () -> w.input("nothing"));
    refused("an unknown datatype", () -> new Tensor("q", "FP4", 1));
    refused("an unknown datatype", () -> new Tensor("q", "INT32 UINT32", 1));
    refused("an unknown datatype", () -> new Tensor("q", "", 1));
    refused("a shape that no row can have", () -> new Tensor("q", "FP32", -2));
    refused("a shape", () -> new Tensor("q", "FP32", 1 << 30, 1 << 30, 1 << 30));
  }

  @Test
  void resultsThatDoNotSuit() {
    RowReader r = new RowReader(signature(new Tensor("x", "INT32", -1), new Tensor("t", "BYTES", 1)));
    byte[][] bad = {{}, {1}, {1, 0, 0, 0, 1, 2, 3}, {-1, -1, -1, -1}, {-1, -1, -1, 127},
        {0, 0, 0, 0, -1, -1, -1, -1}, {0, 0, 0, 0, 4, 0, 0, 0, 1}, {0, 0, 0, 0, 0, 0, 0, 0, 9}};
    for (byte[] row : bad) {
      assertThrows(IllegalStateException.class, () -> r.row(row, false));
    }
    r.row(new byte[] {0, 0, 0, 0, 0, 0, 0, 0}, false);
    refused("another type", () -> r.output("x").floats());
    Random random = new Random(7);
    for (int i = 0; i < 20_000; i++) {
      byte[] row = new byte[random.nextInt(24)];
      random.nextBytes(row);
      try {
        r.row(row, false);
      } catch (IllegalStateException e) {
        continue;
      }
      assertEquals(r.output("x").shape()[0], r.output("x").ints().remaining());
      assertEquals(1, r.output("t").strings().length);
    }
  }

  @Test
  void optionsAsTheFerryReadsThem() {
    List<String> hello = new ArrayList<>();
    SidecarOptions o = new SidecarOptions("127.0.0.1:1").model("a\"b\n").capacity(7)
        .timeout(java.time.Duration.ofSeconds(2)).onError("record", "drop")
        .infer("retry", java.util.Map.of("max", 2)).infer("list", List.of(1, true));
    hello.add(new String(o.client("j", 1, 2, "op", null).hello));
    assertEquals("{\"client\":\"tensorferry-flink 0.1.0\",\"form\":\"rows\",\"infer\":{\"capacity\":7,"
        + "\"list\":[1,true],\"model\":\"a\\u0022b\\u000a\",\"on_error\":{\"record\":\"drop\"},"
        + "\"retry\":{\"max\":2},\"timeout\":\"2000ms\"},\"job\":\"j\",\"operator\":\"op\","
        + "\"parallelism\":2,\"subtask\":1,\"version\":1}", hello.get(0));
    refused("of no known form", () -> new SidecarOptions("nowhere"));
    refused("at least 1", () -> new SidecarOptions("h:1").capacity(0));
  }

  @Test
  void mappingOfJson() {
    JsonMapping m = new JsonMapping().input("pixels", "image.pixels").output("label", "digit")
        .overwrite();
    String hello = new String(new SidecarOptions("h:1").model("m")
        .client("j", 0, 1, "op", m).hello);
    assertTrue(hello.contains("\"inputs\":{\"pixels\":{\"field\":\"image.pixels\"}}"), hello);
    assertTrue(hello.contains("\"outputs\":{\"label\":{\"field\":\"digit\"}}"), hello);
    assertTrue(hello.contains("\"overwrite\":true"), hello);
    RowWriter w = new RowWriter(signature(new Tensor("pixels", "FP32", 64)));
    m.encode("{\"a\":1}", w);
    assertEquals("{\"a\":1}", new String(w.row(0)));
  }
}
