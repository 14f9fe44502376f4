package submit

import (
	"context"

	"google.golang.org/grpc"

	"github.com/tensorferry/tensorferry/internal/brief"
)

// short keeps the job server's errors short. They contain exceptions of Flink, which may have any
// length.
func short() []grpc.DialOption {
	return []grpc.DialOption{
		// A status that is longer than grpc's default bound would break the connection.
		grpc.WithMaxHeaderListSize(maxMessage),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return brief.Error(call(ctx, method, req, reply, conn, opts...))
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := open(ctx, desc, conn, method, opts...)
			if err != nil {
				return nil, brief.Error(err)
			}
			return shortStream{s}, nil
		}),
	}
}

// shortStream is a stream whose status is short.
type shortStream struct{ grpc.ClientStream }

// RecvMsg implements grpc.ClientStream. The io.EOF at the end is returned unchanged.
func (s shortStream) RecvMsg(m any) error { return brief.Error(s.ClientStream.RecvMsg(m)) }
