// Package flinkjava tests the Java client for Apache Flink (java/tensorferry-flink): its own tests
// on both lines of Flink, and the acceptance criteria of FLINK-39629 with a real ferry in front of
// mock sidecars. It needs a JDK 17 and Maven, and the build tag integration.
package flinkjava
