package com.github.tensorferry.flink;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.List;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/** What the main code is, and what it must never become. */
class SourceTest {
  private static List<Path> sources() throws IOException {
    try (Stream<Path> all = Files.walk(Paths.get("src/main/java"))) {
      return all.filter(p -> p.toString().endsWith(".java")).collect(Collectors.toList());
    }
  }

  /** The ferry batches, retries and judges. The client knows names of classes, and no more. */
  @Test
  void theOperatorIsInTheFerry() throws IOException {
    Pattern never = Pattern.compile("io\\.grpc|protobuf|\\bgoogle\\b|maxRetries|backoffPolicy"
        + "|case \"[A-Z_]+_[A-Z_]+\"|\\.(code|reason)\\.(equals|startsWith|contains|matches)"
        + "|switch \\(.*(code|reason|failureClass)\\)|Status\\.Code");
    for (Path p : sources()) {
      assertEquals("", Files.readAllLines(p).stream().filter(never.asPredicate())
          .collect(Collectors.joining("\n")), p.toString());
    }
  }

  @Test
  void itStaysSmall() throws IOException {
    int lines = 0;
    for (Path p : sources()) {
      List<String> all = Files.readAllLines(p);
      lines += all.size();
      assertTrue(all.size() <= 400, p.toString());
      assertEquals("", all.stream().filter(l -> l.length() > 100 || l.contains("\t")
          || l.contains("TO" + "DO")).collect(Collectors.joining("\n")), p.toString());
    }
    assertTrue(lines <= 2150, "lines of main code: " + lines);
  }

  @Test
  void nothingIsPackedIntoTheJar() throws IOException {
    String pom = Files.readString(Paths.get("pom.xml"));
    String dependencies = pom.substring(0, pom.indexOf("</dependencies>"));
    assertEquals(dependencies.split("<dependency>").length - 1,
        dependencies.split("<scope>(provided|test)</scope>").length - 1);
  }
}
