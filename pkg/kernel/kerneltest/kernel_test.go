// SPDX-License-Identifier: Apache-2.0

package kerneltest_test

import (
	"testing"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
)

var (
	_ kerneltest.Loader = (*kernel.Host)(nil)
	_ kerneltest.Loader = (*kerneltest.Kernel)(nil)
)

func TestLoader(t *testing.T) {
	kerneltest.TestLoader(t, kerneltest.NewFixture)
}
