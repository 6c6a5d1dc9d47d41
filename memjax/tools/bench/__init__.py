"""``memjax bench``: memjax beside torch, faiss and scikit-learn, in turn on one machine."""
