//go:build integration

package clients

import (
	"testing"

	"github.com/tensorferry/tensorferry/internal/pyenv"
)

func TestMain(m *testing.M) { pyenv.Main(m) }
